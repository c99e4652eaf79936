"""Studies: grids of runs from one YAML file, made by many workers, told in tables and a page."""
