use super::*;
use crate::cli::{Cli, Command};
use clap::{CommandFactory, Parser};

fn parse(words: &[&str]) -> Result<AgentArgs, clap::Error> {
    let words = ["ferrogate", "agent"].iter().chain(words);
    Cli::try_parse_from(words).map(|cli| match cli.command {
        Command::Agent(args) => *args,
        other => panic!("parsed {other:?}"),
    })
}

#[test]
fn the_defaults_are_the_documented_ones() {
    let args = parse(&[]).expect("no option is required");
    assert_eq!(args.state_dir, PathBuf::from("/sys/fs/bpf/ferrogate"));
    assert_eq!(args.admin_socket(), PathBuf::from("/run/ferrogate/admin.sock"));
    assert_eq!(
        (args.socket_edge, args.pod_edge, args.node_edge),
        (SocketEdge::All, Switch::On, Switch::On)
    );
    assert_eq!((args.xdp, args.snat), (XdpMode::Auto, SnatMode::Remote));
    assert_eq!((args.snat_ports.base, args.snat_ports.count()), (14_000, 16_000));
    assert!(!args.external_cluster_ip && !args.log_packets && args.external_ips.is_empty());
}

#[test]
fn lists_are_split_at_commas_and_options_may_be_repeated() {
    let args = parse(&[
        "--api-server=https://10.0.0.1:6443,https://10.0.0.2:6443",
        "--external-ips=198.51.100.0/24,fd00::/64",
        "--map-entries=FLOWS=1000",
        "--map-entries=backends=2000",
        "--uplink=eth*,wg0",
        "--external-cluster-ip",
        "--socket-edge=on",
        "--admin-socket=/tmp/x.sock",
    ])
    .expect("all are valid");
    assert_eq!(args.api_server.len(), 2);
    assert_eq!(args.external_ips.len(), 2);
    assert_eq!(
        args.map_entries,
        [("FLOWS".to_owned(), 1000), ("BACKENDS".to_owned(), 2000)]
    );
    assert_eq!(args.uplink, ["eth*", "wg0"]);
    assert!(args.external_cluster_ip);
    assert_eq!(args.socket_edge, SocketEdge::All);
    assert_eq!(args.admin_socket(), PathBuf::from("/tmp/x.sock"));
}

#[test]
fn a_bad_value_is_named_with_its_option_and_what_is_accepted() {
    for (words, expected) in [
        (&["--snat-ports=1-2"][..], "1024"),
        (&["--socket-edge=some"], "all, node, off"),
        (&["--external-ips=10.0.0.0/99"], "CIDR"),
        (&["--manifests=/x", "--kubeconfig=/y"], "cannot be used with"),
        (&["--map-entries=NO=1"], "no map"),
        (&["--api-server=host"], "https://"),
    ] {
        let error = parse(words).expect_err(words[0]).to_string();
        assert!(error.contains(expected), "{words:?}: {error}");
    }
}

#[test]
fn the_page_is_off_and_others_reach_it_only_where_that_is_said() {
    let check = |words: &[&str]| parse(words).expect("valid").page.check();
    assert_eq!(parse(&[]).expect("valid").page.ui.0, None);
    for words in [
        &[][..],
        &["--ui=127.0.0.1"],
        &["--ui=[::1]:80"],
        &["--ui=0.0.0.0", "--ui-public"],
    ] {
        assert!(check(words).is_ok(), "{words:?}");
    }
    for address in ["0.0.0.0", "192.0.2.1:8080", "[::]:10261", "[::ffff:192.0.2.1]:1"] {
        let why = check(&["--ui", address]).expect_err(address).to_string();
        assert!(why.contains("--ui-public") && why.contains("ssh -L"), "{why}");
    }
}

#[test]
fn every_option_has_its_variable_in_the_environment() {
    let command = Cli::command();
    let agent = command.find_subcommand("agent").expect("the agent's command");
    for argument in agent.get_arguments().filter(|argument| argument.get_id() != "help") {
        let long = argument.get_long().expect("a long name");
        let expected = format!("FERROGATE_{}", long.to_uppercase().replace('-', "_"));
        assert_eq!(
            argument.get_env().and_then(|name| name.to_str()),
            Some(expected.as_str()),
            "--{long}"
        );
        assert!(argument.get_help().is_some(), "--{long} has a help text");
    }
}
