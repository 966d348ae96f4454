"""What users see: the status of Hubs, Children and ChildSets, and Events."""
