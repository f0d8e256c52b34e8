#!/bin/bash
# The package on a system with systemd: installed, started, restarted, killed, upgraded, stopped, removed, while a client outside keeps
# asking on one connection. Runs as a unit; the last line says how much was as it should be.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
passed=0
failed=0

finish() {
    echo "$passed passed, $failed failed, 0 skipped"
    echo "[vm] end package $failed"
    systemctl poweroff --force --force
}

# The first failure is the last check: the rest builds on it.
check() {
    local what=$1
    shift
    if "$@" > /tmp/said 2>&1; then
        passed=$((passed + 1))
        echo "test $what ... ok"
    else
        failed=1
        echo "test $what ... FAILED"
        tail -n 40 /tmp/said /tmp/serve /tmp/answer /tmp/kept
        journalctl -u ferrogate -o cat -n 40 --no-pager
        finish
    fi
}

soon() {
    local try
    for try in {1..120}; do
        "$@" && return 0
        sleep 0.5
    done
    return 1
}

outside() { ip netns exec out testpod probe --to 192.0.2.1:30080 > /tmp/answer 2>&1; grep -q '"pod"' /tmp/answer; }
inside() { testpod probe --to 10.96.0.10:80 > /tmp/answer 2>&1; grep -q '"pod"' /tmp/answer; }
# The kept connection says something only when it ends.
kept() { sleep 2; ! grep . /tmp/kept | grep -v connected; }
main() { systemctl show --property MainPID --value ferrogate; }
another() { local now; now=$(main); [ "$now" != 0 ] && [ "$now" != "$before" ] && ferrogate status; }
gone() { [ ! -e /sys/fs/bpf/ferrogate ] && ! ls /usr/bin/ferrogate /usr/lib/systemd/system/ferrogate.service /etc/ferrogate/config.yaml; }
silent() { ! journalctl -u ferrogate -o cat --no-pager | grep -E ' (WARN|ERROR) '; }
narrow() { grep CapPrm "/proc/$(main)/status"; grep -q 'CapPrm.*000000c000001[04]00' "/proc/$(main)/status"; }

echo "[vm] begin package"
sysctl -qw net.ipv4.ip_forward=1
for name in pod out; do
    ip netns add $name
    ip -n $name link set lo up
done
ip link add p0 type veth peer name eth0 netns pod
ip link add u0 type veth peer name eth0 netns out
ip link set p0 up
ip link set u0 up
ip -n pod link set eth0 up
ip -n out link set eth0 up
ip addr add 192.0.2.1/24 dev u0
ip -n out addr add 192.0.2.9/24 dev eth0
ip addr add 169.254.1.1/32 dev p0
ip route add 10.244.1.2 dev p0
ip -n pod addr add 10.244.1.2/32 dev eth0
ip -n pod route add 169.254.1.1 dev eth0
ip -n pod route add default via 169.254.1.1
ip netns exec pod testpod serve --name pod --listen 10.244.1.2 --port 8080 > /tmp/serve 2>&1 &

mkdir -p /etc/ferrogate/manifests
cat > /etc/ferrogate/manifests/shop.yaml <<X
apiVersion: v1
kind: Node
metadata: {name: n1}
spec: {podCIDRs: [10.244.1.0/24]}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}
---
apiVersion: v1
kind: Service
metadata: {name: shop, namespace: default}
spec:
  type: NodePort
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10]
  ipFamilies: [IPv4]
  ports: [{port: 80, targetPort: 8080, nodePort: 30080, protocol: TCP}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: shop-1, namespace: default, labels: {kubernetes.io/service-name: shop}}
addressType: IPv4
endpoints: [{addresses: [10.244.1.2], conditions: {ready: true}, nodeName: n1}]
ports: [{port: 8080, protocol: TCP}]
X

check "the package installs" dpkg --install /ferrogate.deb
check "and starts nothing by itself" test "$(systemctl is-active ferrogate)" = inactive
# The client outside is one of this machine's processes, in another network namespace: its calls are to be left alone.
cat >> /etc/default/ferrogate <<X
FERROGATE_MANIFESTS=/etc/ferrogate/manifests
FERROGATE_NODE_NAME=n1
FERROGATE_SOCKET_EDGE=node
X
check "the unit is enabled and started" systemctl enable --now ferrogate
check "the agent runs" soon ferrogate status
check "it serves a client outside" soon outside
check "it serves a process of the node" soon inside
check "doctor finds nothing" ferrogate doctor
check "it has kept three capabilities" narrow
mkfifo /tmp/go
ip netns exec out testpod tick --to 192.0.2.1:30080 --timeout-ms 60000 < /tmp/go > /tmp/kept 2>&1 &
exec 9> /tmp/go
check "a connection is kept" soon grep -q connected /tmp/kept
before=$(main)
check "restart" systemctl restart ferrogate
check "restart: another agent" soon another
check "restart: the kept connection" kept
check "restart: a new connection" outside
before=$(main)
kill -KILL "$before"
check "killed: a new connection at once" outside
check "killed: systemd starts another agent" soon another
check "killed: the kept connection" kept
before=$(main)
check "upgrade by dpkg" dpkg --install /ferrogate.deb
check "upgrade: another agent" soon another
check "upgrade: the kept connection" kept
check "stop" systemctl stop ferrogate
check "stopped: a new connection" outside
check "stopped: the kept connection" kept
check "start" systemctl start ferrogate
check "start: the agent runs" soon ferrogate status
check "the journal has no warning" silent
exec 9>&-
check "the kept connection was answered to its end" soon grep -q '"failure":null' /tmp/kept
check "removal" dpkg --remove ferrogate
check "purge" dpkg --purge ferrogate
check "nothing is left in the kernel and on the disk" gone
finish
