"""From config and site to the cells of the matrix and the jobs of Snakemake."""
