"""A local Kubernetes cluster for tests and the demo: a real control plane and a kubelet that runs pods as processes."""
