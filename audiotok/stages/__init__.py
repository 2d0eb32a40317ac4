"""One file a stage: `run(cfg)` wires a config to one library function. The module docstring is its `--help`."""
