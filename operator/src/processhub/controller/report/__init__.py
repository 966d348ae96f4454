"""The reports that users see: the status of Hubs, Children and ChildSets, and Events."""
