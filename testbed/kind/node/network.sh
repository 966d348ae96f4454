#!/bin/sh
# The container network of a node that is assembled from Debian packages, where no network plugin's image is in reach.
# Runs in a pod of each node (network.yaml), on the node's network, with the node's files at /node. It gives the node's
# pods addresses from its podCIDR (Debian's ptp and host-local plugins), routes the other nodes' podCIDRs to them (all
# nodes are in one Docker network), and masquerades what leaves the pods' network.
# NetworkPolicies are not enforced: they are accepted by the API server and nothing more.
set -u

account=/var/run/secrets/kubernetes.io/serviceaccount
plugins=/node/etc/cni/net.d

on_node() { chroot /node "$@"; }

# One line for each node, and for each change of one that follows: name, podCIDR, address ("-" where unset).
# Ends after 10 s and begins anew: with the routes that an interface lost when it was taken away and given back, with
# what failed before, and with a token that is still valid.
changes() {
    printf 'Authorization: Bearer %s\n' "$(cat "$account/token")" |
        on_node /usr/bin/curl --silent --show-error --fail --no-buffer --max-time 15 --connect-timeout 5 \
            --cacert /etc/kubernetes/pki/ca.crt --header @- \
            "https://$CONTROL_PLANE_ENDPOINT/api/v1/nodes?watch=1&timeoutSeconds=10" |
        on_node /usr/bin/jq --unbuffered --raw-output 'select(.type == "ADDED" or .type == "MODIFIED") | [
            .object.metadata.name, .object.spec.podCIDR // "-",
            ([.object.status.addresses[]? | select(.type == "InternalIP").address][0] // "-")
        ] | join(" ")'
}

configure_pods() { # podCIDR
    mkdir -p "$plugins"
    cat >"$plugins/.new" <<CONFLIST
{"cniVersion": "0.3.1", "name": "processhub", "plugins": [
  {"type": "ptp", "ipMasq": false,
   "ipam": {"type": "host-local", "dataDir": "/run/pod-addresses",
            "routes": [{"dst": "0.0.0.0/0"}], "ranges": [[{"subnet": "$1"}]]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
CONFLIST
    # The file is renamed inside its folder: containerd 1.6 does not notice one that is moved in from elsewhere.
    if cmp -s "$plugins/.new" "$plugins/10-processhub.conflist"; then
        rm "$plugins/.new"
    else
        mv "$plugins/.new" "$plugins/10-processhub.conflist"
        echo "pods here have addresses from $1"
    fi
}

masquerade() {
    nat='/usr/sbin/iptables --wait --table nat'
    # shellcheck disable=SC2086 # words of one command
    {
        on_node $nat --check POSTROUTING --jump POD-EGRESS 2>/dev/null && return
        on_node $nat --new-chain POD-EGRESS 2>/dev/null
        on_node $nat --flush POD-EGRESS
        on_node $nat --append POD-EGRESS ! --source "$POD_SUBNET" --jump RETURN
        on_node $nat --append POD-EGRESS --destination "$POD_SUBNET" --jump RETURN
        on_node $nat --append POD-EGRESS --match addrtype --dst-type LOCAL --jump RETURN
        on_node $nat --append POD-EGRESS --jump MASQUERADE
        on_node $nat --append POSTROUTING --jump POD-EGRESS
    }
}

# The kernel keeps the routes while the API server does not answer: pods go on reaching each other.
while :; do
    masquerade
    changes | while read -r name subnet address; do
        if [ "$subnet" = - ] || [ "$address" = - ]; then
            continue # a later change tells
        elif [ "$name" = "$NODE_NAME" ]; then
            configure_pods "$subnet"
        else
            # Kept when a Node is deleted: its pods run on with their addresses until it is gone or registers anew.
            on_node /usr/sbin/ip route replace "$subnet" via "$address"
        fi
    done
    sleep 1
done
