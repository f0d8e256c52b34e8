use super::super::{ObjectName, Receiver, queue};
use super::*;
use std::fs;
use tempfile::TempDir;

const WEB: &str =
    "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  clusterIP: 10.0.0.1\n  ports: [{port: 80}]\n";
const NODE: &str = "apiVersion: v1\nkind: Node\nmetadata: {name: node-1}\n";

fn slice(address: &str) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: web-1\n  labels: \
         {{kubernetes.io/service-name: web}}\naddressType: IPv4\nendpoints: [{{addresses: [{address}]}}]\nports: [{{name: '', \
         port: 8080}}]\n"
    )
}

/// A directory, and a follower of it whose steps the test takes by itself.
struct Rig {
    dir: TempDir,
    follower: Follower,
    events: Receiver,
}

impl Rig {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = TempDir::new().expect("a directory");
        let (sender, events) = queue();
        let follower = Follower::new(dir.path().to_owned(), sender);
        let rig = Self { dir, follower, events };
        for (name, text) in files {
            rig.write(name, text);
        }
        rig
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.dir.path().join(name), text).expect("write");
    }

    fn first(&mut self) -> Vec<String> {
        self.follower.send_all().expect("open");
        self.drain()
    }

    fn next(&mut self) -> Vec<String> {
        self.follower.send_changes().expect("open");
        self.drain()
    }

    fn drain(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.events.try_recv().ok())
            .map(|(_, event)| describe(&event))
            .collect()
    }
}

fn describe(event: &Event) -> String {
    fn change<K: kube::Resource>(kind: &str, change: &Change<K>) -> String {
        match change {
            Change::Restart => format!("{kind} restart"),
            Change::Complete => format!("{kind} complete"),
            Change::Listed(object) => format!("{kind} listed {}", ObjectName::of(object.as_ref())),
            Change::Applied(object) => format!("{kind} applied {}", ObjectName::of(object.as_ref())),
            Change::Deleted(name) => format!("{kind} deleted {name}"),
            Change::Unreadable(name, _) => format!("{kind} unreadable {name}"),
        }
    }
    match event {
        Event::Service(event) => change("service", event),
        Event::Slice(event) => change("slice", event),
        Event::Node(event) => change("node", event),
        Event::ServiceCidr(event) => change("servicecidr", event),
        Event::Pod(event) => change("pod", event),
        Event::Health(Health::Good) => "good".to_owned(),
        Event::Health(Health::Away(why)) => format!("away {why}"),
        Event::Health(Health::Partial(problems)) => format!("partial {}", problems.join(" | ")),
    }
}

#[test]
fn the_first_list_holds_the_objects_of_all_files_and_documents() {
    let list = format!("---\n# two\n---\n{WEB}---\n{NODE}");
    let mut rig = Rig::new(&[
        ("a.yaml", &list),
        ("b.yml", &slice("10.1.0.1")),
        ("notes.txt", "no manifest"),
        (".c.yaml", WEB),
    ]);
    assert_eq!(
        rig.first(),
        [
            "good",
            "service restart",
            "slice restart",
            "node restart",
            "pod restart",
            "service listed default/web",
            "slice listed default/web-1",
            "node listed default/node-1",
            "node complete",
            "pod complete",
            "slice complete",
            "service complete",
        ]
    );
    assert!(rig.next().is_empty(), "nothing has changed");
}

#[test]
fn a_changed_file_sends_only_what_differs_and_a_deleted_one_takes_its_objects_back() {
    let both = format!("{WEB}---\n{}", slice("10.1.0.1"));
    let mut rig = Rig::new(&[("web.yaml", &both)]);
    rig.first();
    rig.write("web.yaml", &format!("{WEB}---\n{}", slice("10.1.0.2")));
    assert_eq!(rig.next(), ["slice applied default/web-1"]);
    rig.write("web.yaml", WEB);
    assert_eq!(rig.next(), ["slice deleted default/web-1"]);
    fs::remove_file(rig.dir.path().join("web.yaml")).expect("remove");
    assert_eq!(rig.next(), ["service deleted default/web"]);
}

#[test]
fn a_broken_file_is_reported_with_its_place_and_keeps_its_last_good_content() {
    let mut rig = Rig::new(&[("web.yaml", WEB), ("slice.yaml", &slice("10.1.0.1"))]);
    rig.first();
    rig.write(
        "web.yaml",
        &format!("{NODE}---\n{}", WEB.replace("port: 80", "port: eighty")),
    );
    let said = rig.next();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(
        said[0].starts_with("partial") && said[0].contains("web.yaml: line 10 (document 2)"),
        "{said:?}"
    );
    assert!(rig.next().is_empty(), "said once");
    rig.write("web.yaml", WEB);
    assert_eq!(rig.next(), ["good"]);
    rig.write("web.yaml", "");
    assert!(
        rig.next()[0].contains("is empty"),
        "a truncated file takes nothing away"
    );
}

#[test]
fn a_file_broken_from_the_start_is_reported_before_the_list() {
    let mut rig = Rig::new(&[
        ("web.yaml", WEB),
        ("bad.json", "{\"apiVersion\": \"v1\",\n \"kind\": ]}"),
    ]);
    let said = rig.first();
    assert!(said[0].contains("bad.json: line 2 (document 1)"), "{said:?}");
    assert!(said.contains(&"service listed default/web".to_owned()));
}

#[test]
fn a_directory_that_vanishes_keeps_everything_it_held() {
    let mut rig = Rig::new(&[("web.yaml", WEB)]);
    rig.first();
    fs::remove_dir_all(rig.dir.path()).expect("remove");
    let said = rig.next();
    assert!(said.len() == 1 && said[0].starts_with("away"), "{said:?}");
    fs::create_dir(rig.dir.path()).expect("create");
    rig.write("web.yaml", WEB);
    assert_eq!(rig.next(), ["good"]);
}

#[test]
fn an_object_in_two_files_is_taken_from_the_first_and_then_from_the_other() {
    let other = WEB.replace("10.0.0.1", "10.0.0.2");
    let mut rig = Rig::new(&[("a.yaml", WEB), ("b.yaml", &other)]);
    rig.first();
    assert_eq!(rig.follower.sent.len(), 1);
    fs::remove_file(rig.dir.path().join("a.yaml")).expect("remove");
    assert_eq!(rig.next(), ["service applied default/web"]);
}

#[test]
fn lists_are_opened_and_other_kinds_are_noticed_once() {
    let list = r#"{"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"}, "spec": {}},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}}]}"#;
    let typed = r#"{"apiVersion": "v1", "kind": "ServiceList", "items": [{"metadata": {"name": "db"}}]}"#;
    let mut rig = Rig::new(&[
        ("list.json", list),
        ("typed.json", typed),
        ("more.yaml", "apiVersion: v1\nkind: ConfigMap\n"),
    ]);
    let scan = rig.follower.directory.scan();
    assert_eq!(scan.notices.len(), 2, "{scan:?}");
    assert!(rig.follower.directory.scan().notices.is_empty());
    let names: Vec<String> = rig
        .follower
        .directory
        .objects()
        .keys()
        .map(ToString::to_string)
        .collect();
    assert_eq!(names, ["Service default/db", "Service shop/web"]);
}

#[test]
fn a_mistake_in_a_list_is_named_by_its_item() {
    let list = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Service, metadata: {}}\n";
    let error = parse::parse(list).unwrap_err();
    assert_eq!(error.to_string(), "line 1 (document 1): items[0]: no metadata.name");
    let error = parse::parse("kind: Service\n").unwrap_err();
    assert!(error.to_string().contains("without apiVersion"));
}

#[tokio::test]
async fn the_running_source_sees_a_new_file_within_a_second() {
    let dir = TempDir::new().expect("a directory");
    let (sender, mut events) = queue();
    start(dir.path(), sender).expect("start");
    let mut said = vec![];
    while said.last().is_none_or(|last| last != "service complete") {
        said.push(describe(&events.recv().await.expect("open").1));
    }
    fs::write(dir.path().join("web.yaml"), WEB).expect("write");
    let (_, event) = tokio::time::timeout(Duration::from_secs(2), events.recv())
        .await
        .expect("in time")
        .expect("open");
    assert_eq!(describe(&event), "service applied default/web");
}
