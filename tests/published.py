"""The results folders that are published, as they stand in the repository."""

from pathlib import Path

RESULTS = Path(__file__).parents[1] / "results"
FOLDERS = [RESULTS / "smoke", *sorted((RESULTS / "published").glob("*/"))]
