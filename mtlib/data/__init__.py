"""Where text comes from: the strict reader, the generated corpus, the Hub, and corpora with a fingerprint."""
