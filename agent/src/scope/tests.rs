use super::*;

/// A state over a directory that stands for a hierarchy: ids are inode numbers there too.
fn state(root: &Path, kubelet: bool) -> State {
    State {
        root: root.to_owned(),
        kubelet,
        held: Scopes::default(),
        wanted: None,
        awaited: BTreeMap::new(),
    }
}

fn make(root: &Path, directory: &str) -> u64 {
    let path = root.join(directory);
    std::fs::create_dir_all(&path).expect("directory");
    cgroup_id(&path).expect("id")
}

#[test]
fn a_kubelet_s_directory_is_found_also_when_it_is_made_late_or_anew() {
    let root = tempfile::tempdir().expect("directory");
    let mut state = state(root.path(), true);
    assert_eq!(state.look(), Scopes::default(), "everybody is served");
    let id = make(root.path(), "kubepods");
    let found = state.look();
    assert_eq!(found.cgroups, BTreeMap::from([(id, cgroup_scope::SERVED)]));
    assert_eq!(found.levels & 1, 1, "others are not");
    let other = make(root.path(), "kubelet.slice/kubelet-kubepods.slice");
    assert_eq!(state.look().cgroups.len(), 2);
    state.kubelet = false;
    assert_eq!(state.look(), Scopes::default());
    assert_ne!(id, other);
}

#[test]
fn a_pod_that_opts_out_is_awaited_found_and_forgotten() {
    let root = tempfile::tempdir().expect("directory");
    let mut state = state(root.path(), false);
    state.take(Wanted::from([("0a-1b".to_owned(), PodScope::Off)]));
    assert_eq!(state.look(), Scopes::default());
    assert_eq!(state.pause(), AWAITED);
    let id = make(
        root.path(),
        "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0a_1b.slice",
    );
    let found = state.look();
    assert_eq!(found.cgroups, BTreeMap::from([(id, cgroup_scope::OFF)]));
    assert_eq!(found.levels & 1, 0, "all others are served as before");
    assert_ne!(found.levels, 0);
    assert_eq!(state.pause(), PERIOD);
    state.take(Wanted::new());
    assert_eq!(state.look(), Scopes::default());
}

#[test]
fn what_pods_asked_an_earlier_agent_for_holds_until_the_pods_are_known() {
    let root = tempfile::tempdir().expect("directory");
    let mut state = state(root.path(), false);
    state.held = Scopes {
        cgroups: BTreeMap::from([(7, cgroup_scope::OFF), (8, cgroup_scope::SERVED)]),
        levels: 1 | 1 << 3,
    };
    let found = state.look();
    assert_eq!(found.cgroups, BTreeMap::from([(7, cgroup_scope::OFF)]));
    assert_eq!(found.levels, 1 << 3);
    state.take(Wanted::new());
    assert_eq!(state.look(), Scopes::default());
}
