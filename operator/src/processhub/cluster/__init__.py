"""The Kubernetes side: client, informer, workqueue, leases. It knows resources, not what the hub decides."""
