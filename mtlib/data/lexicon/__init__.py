"""Words and sentence frames of the generated corpus, a module a task, in one notation."""
