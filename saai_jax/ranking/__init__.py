"""From embeddings to scores: trials, results files, intervals, comparisons, studies."""
