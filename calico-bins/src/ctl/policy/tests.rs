//! The commands from arguments to text and exit code, over a SQLite store.

use clap::Parser as _;
use expect_test::expect;

use crate::ctl::args::Cli;
use crate::ctl::{Streams, run};

/// Two shops' pods, a database that admits its front end, and what else a cluster has.
const CLUSTER: &str = r"
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {env: live}}
---
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: n1}
spec: {bgp: {ipv4Address: 192.0.2.1/24}}
---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: n1-k8s-web-eth0, namespace: shop, labels: {role: web}}
spec:
  orchestrator: k8s
  node: n1
  pod: web
  endpoint: eth0
  interfaceName: cali1
  ipNetworks: [10.0.0.1/32]
  profiles: [kns.shop]
---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: n1-k8s-db-eth0, namespace: shop, labels: {role: db}}
spec:
  orchestrator: k8s
  node: n1
  pod: db
  endpoint: eth0
  interfaceName: cali2
  ipNetworks: [10.0.0.2/32]
  ports: [{name: sql, protocol: TCP, port: 5432}]
  profiles: [kns.shop]
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  selector: role == 'db'
  types: [Ingress]
  ingress:
  - action: Allow
    protocol: TCP
    source: {selector: role == 'web', namespaceSelector: env == 'live'}
    destination: {ports: [sql]}
";

/// A store in a file, and the command line over it.
struct Desk {
    dir: tempfile::TempDir,
}

impl Desk {
    fn new() -> Self {
        let desk = Self { dir: tempfile::tempdir().unwrap() };
        let file = desk.file("cluster.yaml", CLUSTER);
        let (code, _, err) = desk.ctl(&["apply", "-f", &file]);
        assert_eq!(code, 0, "{err}");
        desk
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn ctl(&self, args: &[&str]) -> (u8, String, String) {
        let store = self.dir.path().join("calico.db");
        let cli = ["calicoctl", "--datastore", store.to_str().unwrap()];
        let cli = Cli::try_parse_from(cli.iter().chain(args)).unwrap_or_else(|error| panic!("{error}"));
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = run(&cli, &mut Streams { out: &mut out, err: &mut err });
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        // Where the files are is of no interest.
        let here = format!("{}/", self.dir.path().display());
        (code, text(out), text(err).replace(&here, ""))
    }

    fn ok(&self, args: &[&str]) -> String {
        let (code, out, err) = self.ctl(args);
        assert_eq!((code, err.as_str()), (0, ""), "{args:?} {out}");
        out
    }

    fn refused(&self, args: &[&str]) -> String {
        let (code, out, err) = self.ctl(args);
        assert_eq!((code, out.as_str()), (1, ""), "{args:?} {err}");
        err
    }
}

#[test]
fn trace() {
    let desk = Desk::new();
    expect![[r#"
        10.0.0.1 (pod shop/web) -> 10.0.0.2 (pod shop/db) TCP 5432: allowed
          egress of pod shop/web: allowed (profile kns.shop, egress[0])
            profile kns.shop
                egress[0] Allow applies
          ingress of pod shop/db: allowed (tier default, np/shop/db, ingress[0])
            tier default, default Deny
              policy np/shop/db, since the endpoint has role = "db" and has projectcalico.org/namespace = "shop"
                ingress[0] Allow applies
                  pod shop/web has pcns.env = "live" from profile kns.shop
                  pod shop/web has role = "web"
    "#]]
    .assert_eq(&desk.ok(&["policy", "trace", "--from", "shop/web", "--to", "shop/db:sql/tcp"]));
    let args = ["policy", "trace", "--from", "shop/web", "--to", "shop/db:80/tcp", "-o", "json"];
    let tree: serde_json::Value = serde_json::from_str(&desk.ok(&args)).unwrap();
    assert_eq!(tree["hops"][1]["endpoint"], "pod shop/db");
    assert_eq!(tree["hops"][1]["tiers"][0]["policies"][0]["name"], "np/shop/db");
}

#[test]
fn questions_that_cannot_be_answered() {
    let desk = Desk::new();
    let trace = |from: &str, to: &str| desk.refused(&["policy", "trace", "--from", from, "--to", to]);
    assert_eq!(trace("shop/wep", "shop/db:1/tcp"), "there is no pod shop/wep; there is shop/db, shop/web\n");
    assert_eq!(
        trace("shop/web", "shop/db"),
        "\"shop/db\": say which traffic: add :port/protocol such as :443/tcp, or :icmp\n"
    );
    assert_eq!(
        trace("shop/web", "shop/db:http/tcp"),
        "pod shop/db has no TCP port named \"http\"; there is sql\n"
    );
    let six = ["policy", "trace", "--from", "shop/web", "--to", "shop/db:1/tcp", "--ip-version", "6"];
    assert_eq!(
        desk.refused(&six),
        "shop/web and shop/db have no addresses of one family, which should be IPv6\n"
    );
}

#[test]
fn why_denied() {
    let desk = Desk::new();
    expect![[r#"
        ingress of pod shop/db denies: no rule of tier default matched and its default is Deny
          np/shop/db ingress[0] would allow, but source.selector is not met: 192.0.2.7 is no endpoint or network set
    "#]]
    .assert_eq(&desk.ok(&["policy", "why-denied", "--from", "192.0.2.7", "--to", "shop/db:5432/tcp"]));
    let (code, out, _) = desk.ctl(&["policy", "why-denied", "--from", "shop/web", "--to", "shop/db:5432"]);
    assert_eq!(code, 1, "a question that was wrong");
    assert!(out.starts_with("It is not denied:\n10.0.0.1 (pod shop/web)"), "{out}");
    let json = ["policy", "why-denied", "--from", "shop/db", "--to", "shop/db:80/udp", "-o", "json"];
    let tree: serde_json::Value = serde_json::from_str(&desk.ok(&json)).unwrap();
    assert_eq!(tree["direction"], "ingress");
}

#[test]
fn simulate_changes_nothing_and_says_who_is_concerned() {
    let desk = Desk::new();
    let closed = desk.file(
        "new.yaml",
        "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {name: web, namespace: shop}\n\
         spec: {selector: role == 'web', egress: [{action: Deny, protocol: TCP}, {action: Allow}]}\n",
    );
    let args = ["policy", "simulate", "-f", &closed];
    expect![[r#"
        3 of 24 combinations change
          pod shop/web -> pod shop/db TCP 5432: allowed, then denied (tier default, np/shop/web, egress[0])
          pod shop/web -> outside TCP other: allowed, then denied (tier default, np/shop/web, egress[0])
          pod shop/web -> outside TCP 5432: allowed, then denied (tier default, np/shop/web, egress[0])
    "#]]
    .assert_eq(&desk.ok(&args));
    assert_eq!(desk.ctl(&[&args[..], &["--exit-code"]].concat()).0, 1);
    let tree: serde_json::Value =
        serde_json::from_str(&desk.ok(&[&args[..], &["-o", "json"]].concat())).unwrap();
    assert_eq!(tree["flips"][0]["from"]["name"], "pod shop/web");
    assert_eq!(desk.ok(&args), desk.ok(&args), "nothing was written");
    let db = desk.file("db.yaml", &CLUSTER[CLUSTER.rfind("---").unwrap()..]);
    assert!(desk.ok(&["policy", "simulate", "-f", &db]).starts_with("0 of "), "it is there already");
    let gone = desk.ok(&["policy", "simulate", "--delete", "-f", &db]);
    assert!(
        gone.contains("outside -> pod shop/db ICMP: denied, then allowed (profile kns.shop, ingress[0])"),
        "{gone}"
    );
    let missing = desk.refused(&["policy", "simulate", "--delete", "-f", &closed]);
    assert_eq!(missing, "new.yaml:1: document 1: NetworkPolicy(shop/web) does not exist\n");
}

#[test]
fn simulate_takes_kubernetes_objects_and_refuses_what_apply_would() {
    let desk = Desk::new();
    let kubernetes = desk.file(
        "knp.yaml",
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: shut, namespace: shop}\n\
         spec: {podSelector: {matchLabels: {role: web}}, policyTypes: [Ingress]}\n",
    );
    let said = desk.ok(&["policy", "simulate", "-f", &kubernetes]);
    assert!(said.contains("pod shop/db -> pod shop/web ICMP: allowed, then denied"), "{said}");
    let bad = desk.file(
        "bad.yaml",
        "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {name: x, namespace: shop}\n\
         spec:\n  selector: role ==\n",
    );
    let said = desk.refused(&["policy", "simulate", "-f", &bad]);
    assert!(said.contains("bad.yaml") && said.contains("spec.selector"), "{said}");
    assert!(desk.refused(&["policy", "simulate", "-f", "nowhere.yaml"]).contains("nowhere.yaml"));
}

#[test]
fn lint() {
    let desk = Desk::new();
    assert_eq!(desk.ok(&["policy", "lint"]), "Nothing suspicious.\n");
    let odd = desk.file(
        "odd.yaml",
        "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {name: odd}\n\
         spec:\n  selector: role == 'db'\n  ingress: [{action: Allow}, {action: Deny, protocol: TCP}]\n",
    );
    let args = ["policy", "lint", "-n", "shop", "-f", &odd];
    expect![[r"
        warning: np/shop/odd spec.ingress[1]: ingress[0] takes every packet that this rule is meant for
    "]]
    .assert_eq(&desk.ok(&args));
    let (code, ..) = desk.ctl(&[&args[..], &["--strict"]].concat());
    assert_eq!(code, 1);
    let tree: serde_json::Value =
        serde_json::from_str(&desk.ok(&[&args[..], &["-o", "json"]].concat())).unwrap();
    assert_eq!(
        (tree[0]["concern"].as_str(), tree[0]["severity"].as_str()),
        (Some("shadowed"), Some("warning"))
    );
    let lost = desk.file(
        "lost.yaml",
        "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {name: lost, namespace: shop}\n\
         spec: {tier: ghost, selector: role == 'db', ingress: [{action: Allow}]}\n",
    );
    let (code, out, _) = desk.ctl(&["policy", "lint", "-f", &lost]);
    assert_eq!(code, 1, "an error fails");
    assert!(out.contains("error: np/shop/lost spec.tier: tier ghost does not exist"), "{out}");
}

#[test]
fn matrix() {
    let desk = Desk::new();
    expect![[r"
        from \ to     pod shop/db  pod shop/web  outside
        pod shop/db   n/a          all           all
        pod shop/web  TCP 5432     n/a           all
        outside       -            all           n/a
    "]]
    .assert_eq(&desk.ok(&["policy", "matrix"]));
    let some = desk.ok(&["policy", "matrix", "--probe", "5432/tcp"]);
    assert!(some.contains("pod shop/web  all"), "{some}");
    assert!(desk.ok(&["policy", "matrix", "-o", "svg"]).starts_with("<svg "));
    let tree: serde_json::Value =
        serde_json::from_str(&desk.ok(&["policy", "matrix", "-o", "json"])).unwrap();
    assert_eq!(tree["groups"].as_array().unwrap().len(), 3);
    let wrong = desk.refused(&["policy", "matrix", "--probe", "http/tcp"]);
    assert_eq!(wrong, "--probe http/tcp: give the port by number\n");
}

#[test]
fn unreadable_objects_are_left_out_and_named() {
    let desk = Desk::new();
    let store = calico_datastore::SqliteStore::open(calico_datastore::SqliteOptions::new(
        desk.dir.path().join("calico.db"),
    ))
    .unwrap();
    let path = "/calico/resources/v3/projectcalico.org/networkpolicies/shop/broken";
    let write = calico_datastore::RawWrite::put(path, calico_datastore::Expect::Absent, *b"{");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(calico_datastore::Backend::txn(&store, vec![write])).unwrap();
    let (code, out, err) = desk.ctl(&["policy", "lint"]);
    assert_eq!((code, out.as_str()), (0, "Nothing suspicious.\n"));
    assert!(err.starts_with(&format!("warning: {path} cannot be read and is left out: ")), "{err}");
}

#[test]
fn the_ruleset_of_a_node() {
    let desk = Desk::new();
    let script = desk.ok(&["dataplane", "show", "--node", "n1", "--format", "nft"]);
    assert!(script.starts_with("table inet calico {\n"), "{script}");
    assert!(script.contains("chain cali-pi-np/shop/db {"), "{script}");
    assert!(script.contains("\"cali2\" comment \"k8s shop/db eth0\" : goto cali-tw-"), "{script}");
    let unknown = desk.refused(&["dataplane", "show", "--node", "n2"]);
    assert_eq!(unknown, "there is no node n2 in the datastore; see calicoctl get nodes\n");
    let child = std::process::Command::new("nft")
        .args(["-c", "-f", "-"])
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        println!("not compared: nft is not installed");
        return;
    };
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), script.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() || said.contains("Operation not permitted"), "{said}");
}

/// In a network namespace of its own: the kernel has no table, then one without counters, then one with.
#[test]
fn stats_and_ruleset_of_the_kernel() {
    use calico_dataplane::driver::{InterfaceState, PolicyDataplane as _};
    use calico_dataplane::nft::Dataplane;
    use calico_dataplane::nft::config::Config;
    use calico_policy::{Graph, GraphConfig};
    let namespace = match calico_dataplane::netns::NetNs::create() {
        Ok(namespace) => namespace,
        Err(error) => {
            println!("skipped: stats_and_ruleset_of_the_kernel: {error}");
            assert!(std::env::var_os("CALICO_NO_SKIP").is_none());
            return;
        }
    };
    let outcome = namespace.run(|| {
        let desk = Desk::new();
        assert!(
            desk.refused(&["policy", "stats"]).starts_with("there is no table inet calico on this machine")
        );
        assert!(desk.refused(&["dataplane", "show"]).starts_with("there is no table inet calico"));
        let store = calico_datastore::open_backend(
            &calico_datastore::config::DatastoreConfig::Sqlite { path: desk.dir.path().join("calico.db") },
            calico_datastore::Role::Tool,
        );
        let resources =
            super::Resources::read(&store.unwrap()).unwrap_or_else(|failed| panic!("{}", failed.0));
        let mut graph = Graph::new(GraphConfig { node: "n1".into(), ..GraphConfig::default() });
        resources.updates().into_iter().for_each(|update| graph.apply(update));
        graph.in_sync();
        let changes = graph.flush();
        let mut plain = Dataplane::open(Config::default()).unwrap();
        plain.apply(&changes, &InterfaceState::default()).unwrap();
        assert!(desk.refused(&["policy", "stats"]).contains("FELIX_POLICYRULECOUNTERS=true"));
        assert_eq!(desk.ok(&["dataplane", "show"]), desk.ok(&["dataplane", "show", "--node", "n1"]));
        drop(plain);
        let mut counting = Dataplane::open(Config { rule_counters: true, ..Config::default() }).unwrap();
        let mut changes = changes;
        changes.config = None;
        counting.apply(&changes, &InterfaceState::default()).unwrap();
        expect![[r#"
            POLICY             RULE         ACTION   PACKETS   BYTES   
            np/shop/db         ingress[0]   Allow    0         0       
            profile kns.shop   egress[0]    Allow    0         0       
            profile kns.shop   ingress[0]   Allow    0         0       

        "#]]
        .assert_eq(&desk.ok(&["policy", "stats"]));
        let tree: serde_json::Value =
            serde_json::from_str(&desk.ok(&["policy", "stats", "--policy", "np/", "-o", "json"])).unwrap();
        assert_eq!(tree[0]["policy"], "np/shop/db");
        assert_eq!(desk.ok(&["policy", "stats", "--nonzero", "-o", "json"]), "[]\n");
    });
    outcome.unwrap();
}
