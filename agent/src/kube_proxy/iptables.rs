//! kube-proxy's chains in iptables, by the programs that read and write them.

use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

/// The tables in which it has chains.
const TABLES: [&str; 3] = ["nat", "filter", "mangle"];

/// Chains that are kube-proxy's and nobody else's: the kubelet and network policies have some that begin with KUBE- too.
const CHAINS: [&str; 10] = [
    "KUBE-SERVICES",
    "KUBE-EXTERNAL-SERVICES",
    "KUBE-NODEPORTS",
    "KUBE-POSTROUTING",
    "KUBE-MARK-MASQ",
    "KUBE-FORWARD",
    "KUBE-PROXY-FIREWALL",
    "KUBE-PROXY-CANARY",
    "KUBE-LOAD-BALANCER",
    "KUBE-SOURCE-RANGES-FIREWALL",
];
/// Beginnings of the names that it gives a chain for each Service port and endpoint.
const PREFIXES: [&str; 5] = ["KUBE-SVC-", "KUBE-SEP-", "KUBE-EXT-", "KUBE-SVL-", "KUBE-FW-"];

fn is_ours(chain: &str) -> bool {
    CHAINS.contains(&chain) || PREFIXES.iter().any(|prefix| chain.starts_with(prefix))
}

/// The programs of one family and kind: `iptables-legacy`, `ip6tables-nft`, ...
pub(super) struct Tables {
    pub(super) program: &'static str,
}

impl Tables {
    pub(super) const LEGACY: [Self; 2] = [
        Self {
            program: "iptables-legacy",
        },
        Self {
            program: "ip6tables-legacy",
        },
    ];
    pub(super) const NFT: [Self; 2] = [
        Self {
            program: "iptables-nft",
        },
        Self {
            program: "ip6tables-nft",
        },
    ];

    /// Whether kube-proxy has a chain in the table `nat`.
    pub(super) fn has_rules(&self) -> Result<bool> {
        Ok(self
            .save("nat")?
            .lines()
            .any(|line| line.starts_with(":KUBE-SERVICES ")))
    }

    /// Removes its chains, and the rules that lead there; how many chains there were. Each table changes at once.
    pub(super) fn remove_rules(&self) -> Result<usize> {
        let mut count = 0;
        for table in TABLES {
            let (script, chains) = removal(table, &self.save(table)?);
            if chains > 0 {
                self.restore(&script)?;
            }
            count += chains;
        }
        Ok(count)
    }

    fn save(&self, table: &str) -> Result<String> {
        let program = format!("{}-save", self.program);
        let output = Command::new(&program)
            .args(["-t", table])
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot run {program}: install iptables, or run this where it is"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{program} -t {table}: {}", said.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn restore(&self, script: &str) -> Result<()> {
        let program = format!("{}-restore", self.program);
        let mut child = Command::new(&program)
            .args(["--noflush", "--wait", "10"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {program}"))?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(script.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }
}

/// What `iptables-restore --noflush` must be told to remove kube-proxy's chains from a table that `iptables-save` has printed,
/// and their number.
fn removal(table: &str, saved: &str) -> (String, usize) {
    let chains: BTreeSet<&str> = saved
        .lines()
        .filter_map(|line| line.strip_prefix(':')?.split_whitespace().next())
        .filter(|chain| is_ours(chain))
        .collect();
    let mut script = format!("*{table}\n");
    // Declared anew, a chain is emptied; so all rules between these chains go first.
    for chain in &chains {
        // Writing to a String does not fail.
        let _ = writeln!(script, ":{chain} - [0:0]");
    }
    for line in saved.lines() {
        let Some(rule) = line.strip_prefix("-A ") else { continue };
        let mut words = rule.split_whitespace();
        let of = words.next().unwrap_or_default();
        let leads_there = words
            .clone()
            .zip(words.skip(1))
            .any(|(option, chain)| matches!(option, "-j" | "-g") && chains.contains(chain));
        if leads_there && !chains.contains(of) {
            let _ = writeln!(script, "-D {rule}");
        }
    }
    for chain in &chains {
        let _ = writeln!(script, "-X {chain}");
    }
    script.push_str("COMMIT\n");
    (script, chains.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kube_proxy_s_chains_go_and_nobody_else_s() {
        let saved = "*nat\n:PREROUTING ACCEPT [0:0]\n:KUBE-SERVICES - [0:0]\n:KUBE-SVC-ABC - [0:0]\n:KUBE-KUBELET-CANARY - [0:0]\n\
                     :CNI-HOSTPORT - [0:0]\n\
                     -A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
                     -A PREROUTING -j CNI-HOSTPORT\n\
                     -A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -j KUBE-SVC-ABC\nCOMMIT\n";
        let (script, chains) = removal("nat", saved);
        assert_eq!(chains, 2);
        assert_eq!(
            script,
            "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-SVC-ABC - [0:0]\n\
             -D PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
             -X KUBE-SERVICES\n-X KUBE-SVC-ABC\nCOMMIT\n"
        );
    }

    #[test]
    fn where_there_is_nothing_of_kube_proxy_nothing_is_asked_for() {
        assert_eq!(
            removal("filter", "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -j ACCEPT\nCOMMIT\n").1,
            0
        );
    }
}
