"""config.yaml: its schema, its checks, its errors."""
