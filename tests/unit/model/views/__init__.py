"""A small-state model of views: members that start children by themselves, under the real decisions of the operator."""
