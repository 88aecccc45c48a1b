"""The recipes, one YAML file each. A package, so that an installed fastmix finds them too."""
