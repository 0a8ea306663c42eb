"""What the runs mean: statistics, ensembles, analysis, the published numbers, tables and figures.

Nothing here trains. Every function reads stored predictions, histories, embeddings or weights, so a table or a
figure can be rebuilt at any time from finished runs.
"""
