//! Every difference between the two proxies that is meant, by name and with its reason.
use std::fmt;

/// Why Ferrogate and kube-proxy differ on purpose, or where one of them has a limit that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    ClusterIpFromOutside,
    LocalBackendSeesClient,
    PodKeepsAddress,
    OutsideKeepsAddressLocally,
    HairpinAtTheSocket,
    HairpinWithoutNodeName,
    BackendWithoutNodeName,
    HeadlessLabel,
    RelabelledSlice,
    BypassedReplies,
    PodAtOtherNode,
    OwnHostNetworkAsFromTheService,
    ContradictorySlices,
    TakenOnTheWayOut,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Rule::ClusterIpFromOutside => {
                "ClusterIPs are for inside the cluster: without --external-cluster-ip ours drops what comes from outside, \
                 kube-proxy serves it"
            }
            Rule::LocalBackendSeesClient => {
                "a backend on the node that was asked sees the client's address (--snat remote), where kube-proxy masquerades \
                 (externalTrafficPolicy Cluster)"
            }
            Rule::PodKeepsAddress => {
                "a pod keeps its address towards NodePorts and load balancers too: its replies come back by its own edge; \
                 kube-proxy masquerades"
            }
            Rule::OutsideKeepsAddressLocally => {
                "with internalTrafficPolicy Local and --external-cluster-ip the backend sees the client, as with \
                 externalTrafficPolicy Local; kube-proxy masquerades"
            }
            Rule::HairpinAtTheSocket => {
                "a pod that asks itself is translated at its socket and meets itself over lo; kube-proxy masquerades the \
                 packets"
            }
            Rule::HairpinWithoutNodeName => {
                "kube-proxy masquerades a pod that asks itself only if the slice names its node (nftables set \
                 hairpin-connections), or another Service's does; ours knows it by its address"
            }
            Rule::BackendWithoutNodeName => {
                "a backend whose slice names no node counts as remote with ours, which masquerades towards it, also for another \
                 node's pod at a NodePort of policy Local; kube-proxy does not"
            }
            Rule::HeadlessLabel => {
                "ours skips a Service labelled service.kubernetes.io/headless, as kube-proxy did until it split its watches; \
                 kube-proxy 1.36 skips only slices with that label"
            }
            Rule::RelabelledSlice => {
                "kube-proxy keeps the endpoints of a slice that loses or changes its label kubernetes.io/service-name \
                 (EndpointSliceCache goes by the new label alone)"
            }
            Rule::BypassedReplies => {
                "a pod that asks another node's NodePort of policy Local gets the Cluster set without masquerading from \
                 kube-proxy, so that the reply of a backend elsewhere does not come back through that node, and is lost; ours masquerades"
            }
            Rule::PodAtOtherNode => {
                "a pod that asks another node's NodePort of policy Local is an outside client there: the Local set; \
                 kube-proxy tells pods by --cluster-cidr"
            }
            Rule::OwnHostNetworkAsFromTheService => {
                "without the socket edge a node's process reaches its own host network as from the Service's address: no device \
                 takes packets from its own node's addresses"
            }
            Rule::TakenOnTheWayOut => {
                "kube-proxy refuses and drops datagrams of a node's process in netfilter's output hook, where the call fails \
                 with EPERM; ours refuses with ECONNREFUSED and drops in silence, as for everybody else"
            }
            Rule::ContradictorySlices => {
                "two slices contradict each other about one address and port: kube-proxy takes one by the order of a Go map, \
                 ours the local one, then the one in the better state"
            }
        })
    }
}
