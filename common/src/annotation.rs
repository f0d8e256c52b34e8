//! Annotations and labels that change what happens to a Service or a pod.

/// One of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Annotation {
    pub key: &'static str,
    /// `annotation of a Service`, for instance.
    pub place: &'static str,
    pub values: &'static str,
    /// One sentence or two, with the default.
    pub meaning: &'static str,
}

impl Annotation {
    /// How a Service chooses among its endpoints.
    pub const ALGORITHM: Self = Self {
        key: "ferrogate.dev/algorithm",
        place: "annotation of a Service",
        values: "`round-robin`, `random`, `maglev`, `source-hash`, `least-connections`",
        meaning: "Which endpoint a new connection goes to. What is none of these is taken as `round-robin`, the default, with an Event.",
    };
    /// What the choice prefers.
    pub const WEIGHTS: Self = Self {
        key: "ferrogate.dev/weights",
        place: "annotation of a Service",
        values: "SELECTOR`=`WEIGHT, with commas between; selectors are an address, a CIDR, `pod:NAME`, `pod:BEGINNING*`, `node:NAME`, \
                 `zone:NAME`, `*`; weights are 0 to 100",
        meaning: "The first selector that matches an endpoint gives its weight; without one it is 1. Weight 0 takes no new connections, \
                  unless all have it.",
    };
    /// Whether a pod's sockets are served.
    pub const SOCKET_EDGE: Self = Self {
        key: "ferrogate.dev/socket-edge",
        place: "annotation or label of a Pod; the annotation counts before the label",
        values: "`on`, `off`, `only`",
        meaning: "`off`: the pod's `connect()` is left alone, and the pod edge translates its packets. `only`: no other edge sees its \
                  packets (macvlan, ipvlan, SR-IOV), so nothing is left to the pod edge. `on` is the default.",
    };
    /// Which proxy a Service is for.
    pub const PROXY_NAME: Self = Self {
        key: "service.kubernetes.io/service-proxy-name",
        place: "label of a Service",
        values: "a name",
        meaning: "Kubernetes' own: only a proxy of this name serves it (`--service-proxy-name`); without the option, those without the label \
                  are served.",
    };
    /// Which Services are for no proxy.
    pub const HEADLESS: Self = Self {
        key: "service.kubernetes.io/headless",
        place: "label of a Service",
        values: "any",
        meaning: "Kubernetes' own: no proxy serves it.",
    };

    /// In the order in which the reference has them.
    pub const ALL: &[Self] = &[
        Self::ALGORITHM,
        Self::WEIGHTS,
        Self::SOCKET_EDGE,
        Self::PROXY_NAME,
        Self::HEADLESS,
    ];
}
