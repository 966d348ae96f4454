"""The Kubernetes side: API client, informers, work queue. It knows resources, but nothing of what a hub decides."""
