#!/bin/bash
# preload.sh ROOT IMAGES: imports the archives of folder IMAGES into the containerd of the node tree ROOT.
# To be run in mount and process namespaces of its own, which take its mounts and its containerd with them however it
# ends. The layers stay packed: what Docker copies from the image into each node's /var are these blobs alone.
set -euo pipefail
root=$1 images=$2

mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/run"
mkdir "$root/run/images"
mount --bind "$images" "$root/run/images"

# Without the plugin for the kubelet, which would want a network and cgroups.
printf 'version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n' >"$root/run/import.toml"
chroot "$root" containerd --config /run/import.toml --log-level warn &
containerd=$!
deadline=$((SECONDS + 30))
until chroot "$root" ctr version >/dev/null 2>&1; do
    kill -0 "$containerd"
    ((SECONDS < deadline)) || { echo "containerd does not answer after 30 s" >&2; exit 1; }
    sleep 0.1
done
for archive in "$images"/*.tar; do
    chroot "$root" ctr --namespace k8s.io images import --no-unpack "/run/images/${archive##*/}"
done
kill "$containerd"
wait "$containerd" || true # by signal, as asked
