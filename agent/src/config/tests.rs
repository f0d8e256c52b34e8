use super::*;
use crate::cli::Command;

/// What kubeadm writes for kube-proxy, with some of it filled in.
const KUBEADM: &str = r#"
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
bindAddress: 0.0.0.0
bindAddressHardFail: false
clientConnection:
  acceptContentTypes: ""
  burst: 0
  contentType: ""
  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf
  qps: 0
clusterCIDR: 10.244.0.0/16,fd00:244::/48
configSyncPeriod: 0s
conntrack:
  maxPerCore: null
  min: 65536
  tcpEstablishedTimeout: 2h0m0s
detectLocal:
  bridgeInterface: ""
  interfaceNamePrefix: ""
detectLocalMode: ""
enableProfiling: false
healthzBindAddress: "127.0.0.1:10256"
hostnameOverride: "n1"
iptables:
  localhostNodePorts: null
  masqueradeAll: true
  masqueradeBit: null
ipvs:
  excludeCIDRs: null
  strictARP: false
logging:
  flushFrequency: 0
  options:
    json:
      infoBufferSize: "0"
  verbosity: 4
metricsBindAddress: ""
mode: "nftables"
nodePortAddresses: [192.168.0.0/24, "primary"]
oomScoreAdj: -998
winkernel:
  enableDSR: false
"#;

fn options(text: &str) -> BTreeMap<&'static str, String> {
    translate(text).expect("a good file").options
}

/// A file with these lines behind its head.
fn file(lines: &str) -> String {
    format!("apiVersion: {API_VERSION}\nkind: {KIND}\n{lines}\n")
}

#[test]
fn a_file_of_kubeadm_becomes_options_and_what_is_left_is_named() {
    let translated = translate(KUBEADM).expect("a good file");
    let expected = [
        ("cluster-cidr", "10.244.0.0/16,fd00:244::/48"),
        ("healthz-bind-address", "127.0.0.1:10256"),
        ("kubeconfig", "/var/lib/kube-proxy/kubeconfig.conf"),
        ("log-level", "debug"),
        ("node-name", "n1"),
        ("node-port-addresses", "192.168.0.0/24,primary"),
        ("snat", "always"),
        ("conntrack-min", "65536"),
        ("tcp-established-timeout", "2h0m0s"),
    ];
    let expected: BTreeMap<_, _> = expected
        .into_iter()
        .map(|(name, value)| (name, value.to_owned()))
        .collect();
    assert_eq!(translated.options, expected);
    assert_eq!(
        translated.ignored,
        [
            "bindAddress",
            "logging.options.json.infoBufferSize",
            "mode",
            "oomScoreAdj"
        ]
    );
}

#[test]
fn every_option_of_a_file_is_one_of_the_agent() {
    let command = Cli::command();
    let agent = command.find_subcommand("agent").expect("there is an agent");
    for name in options(KUBEADM).keys() {
        let known = agent.get_arguments().any(|one| one.get_long() == Some(*name));
        assert!(known, "--{name}");
    }
}

#[test]
fn the_cluster_s_range_counts_only_where_local_clients_are_told_by_it() {
    for mode in ["NodeCIDR", "BridgeInterface", "InterfaceNamePrefix"] {
        let text = file(&format!(
            "clusterCIDR: 10.244.0.0/16\ndetectLocalMode: {mode}\ndetectLocal: {{bridgeInterface: cni0}}"
        ));
        let translated = translate(&text).expect("a good file");
        assert_eq!(translated, Translated::default(), "{mode}");
    }
    let text = file("clusterCIDR: 10.244.0.0/16\ndetectLocalMode: ClusterCIDR");
    assert_eq!(options(&text)["cluster-cidr"], "10.244.0.0/16");
}

#[test]
fn a_file_that_is_none_says_what_is_wrong_and_where() {
    for (text, complaint) in [
        ("- a list".to_owned(), "not an object"),
        ("{".to_owned(), "not YAML"),
        ("kind: Service\napiVersion: v1".to_owned(), "it is v1 Service, not"),
        ("kind: KubeProxyConfiguration".to_owned(), "without apiVersion"),
        (file("hostnameOverride: 7"), "hostnameOverride"),
        (file("nodePortAddresses: 10.0.0.0/8"), "nodePortAddresses"),
        (file("iptables: {masqueradeAll: often}"), "iptables.masqueradeAll"),
        (file("detectLocalMode: Guess"), "detectLocalMode"),
    ] {
        let error = translate(&text).expect_err(&text);
        assert!(format!("{error:#}").contains(complaint), "{error:#}");
    }
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(Into::into).collect()
}

#[test]
fn the_command_line_and_the_environment_go_before_the_file() {
    let translated = translate(KUBEADM).expect("a good file");
    let line = words(&["ferrogate", "agent", "--node-name", "other", "--snat=remote"]);
    let added = additions(&line, &translated, |variable| variable == "FERROGATE_KUBECONFIG");
    let added: Vec<String> = added.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    for absent in ["--node-name", "--snat", "--kubeconfig"] {
        assert!(
            !added.iter().any(|word| word.starts_with(absent)),
            "{absent}: {added:?}"
        );
    }
    assert!(added.contains(&"--log-level=debug".to_owned()));
}

#[test]
fn a_command_line_with_a_file_is_read_like_one_with_its_options() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("config.conf");
    fs::write(&path, KUBEADM).expect("a file");
    let line = words(&["ferrogate", "agent", "--config", &path.to_string_lossy()]);
    let Command::Agent(args) = parse_command_line(line).expect("a good file").command else {
        panic!("not the agent");
    };
    assert_eq!(args.node_name.as_deref(), Some("n1"));
    assert_eq!(
        args.kubeconfig,
        Some(PathBuf::from("/var/lib/kube-proxy/kubeconfig.conf"))
    );
    assert_eq!(args.config, Some(path));
}

#[test]
fn only_the_agent_s_command_line_has_a_file() {
    assert_eq!(config_file(&words(&["ferrogate", "status", "--config", "x"])), None);
    let named = config_file(&words(&["ferrogate", "agent", "--config=x"]));
    assert_eq!(named, Some(PathBuf::from("x")));
}
