"""From YAML files to a composed config and the objects that it names."""
