"""What tables share: series of cells, pairs, ratios, verdicts."""
