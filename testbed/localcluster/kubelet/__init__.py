"""A kubelet that runs pods as local processes: no images, no container runtime, no root needed."""
