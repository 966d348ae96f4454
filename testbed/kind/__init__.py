"""A real cluster in Docker with kind: four nodes with kubelets, containers and networks of their own."""
