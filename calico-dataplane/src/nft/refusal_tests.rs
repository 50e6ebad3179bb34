//! What happens when the kernel refuses, with refusals injected where the real kernel would need to be broken.

use calico_policy::changes::{Changes, SetDelta};
use calico_policy::ir::{Member, RuleAction};

use super::compile::TABLE;
use super::config::Config;
use super::dataplane::Dataplane;
use super::fake::{FakeKernel, Fault};
use super::fixtures::*;
use super::kernel::KernelError;
use crate::driver::{ApplyReport, InterfaceState, PolicyDataplane};

fn over(kernel: FakeKernel) -> Dataplane<FakeKernel> {
    Dataplane::over(kernel, Config::default())
}

fn apply(dataplane: &mut Dataplane<FakeKernel>, changes: &Changes) -> Result<ApplyReport, KernelError> {
    dataplane.apply(changes, &InterfaceState::default())
}

fn assert_in_force(dataplane: &mut Dataplane<FakeKernel>) {
    let desired = dataplane.compiler().table().desired().clone();
    assert!(dataplane.kernel_mut().ruleset(TABLE) == Some(&desired));
}

/// Whatever the reason, only the endpoints that need the chain fail, closed, and the status says why.
#[test]
fn a_refused_chain_closes_its_endpoints_and_nothing_else() {
    for errno in [libc::ENOSPC, libc::EBUSY, libc::EINVAL, libc::EOPNOTSUPP, libc::EMLINK] {
        let mut kernel = FakeKernel::default();
        kernel.curse("cali-pi-np/default/web", errno);
        let mut dataplane = over(kernel);
        let report = apply(&mut dataplane, &small_world()).unwrap();
        let failed: Vec<_> = report.failed_endpoints.keys().cloned().collect();
        assert_eq!(failed, [workload_id("web-1"), workload_id("web-2")], "errno {errno}");
        let reason = &report.failed_endpoints[&workload_id("web-1")];
        let said = format!("chain cali-pi-np/default/web: the kernel refused it: errno {errno}");
        assert_eq!(*reason, said);
        assert_in_force(&mut dataplane);
        let chains = &dataplane.compiler().table().desired().chains;
        assert_eq!(chains["cali-pi-np/default/web"].rules[0].exprs, [super::build::drop_packet()]);
        // Everything else goes on while that chain is closed.
        let pod = Changes {
            workload_endpoints: vec![workload("other", &["10.65.0.9"], &[])],
            ..Changes::default()
        };
        let report = apply(&mut dataplane, &pod).unwrap();
        assert!(!report.failed_endpoints.contains_key(&workload_id("other")));
        assert_eq!(report.failed_endpoints.len(), 2, "and the status keeps telling");
        // The kernel recovers and the policy changes.
        dataplane.kernel_mut().forget_faults();
        let changed = policy("web", &[rule(0, RuleAction::Allow, &[protocol(6)])], &[]);
        let report =
            apply(&mut dataplane, &Changes { policies: vec![changed], ..Changes::default() }).unwrap();
        assert!(report.failed_endpoints.is_empty());
        assert_in_force(&mut dataplane);
    }
}

#[test]
fn a_set_that_takes_no_element_closes_the_rules_that_need_it() {
    for errno in [libc::ENOSPC, libc::ENFILE, libc::EINVAL] {
        let mut dataplane = over(FakeKernel::default());
        apply(&mut dataplane, &small_world()).unwrap();
        dataplane.kernel_mut().curse("cali40s-client", errno);
        let delta = SetDelta {
            id: set_id("client"),
            added: vec![Member::Net(net("10.65.0.77/32"))],
            removed: Vec::new(),
        };
        let report =
            apply(&mut dataplane, &Changes { set_deltas: vec![delta], ..Changes::default() }).unwrap();
        let failed: Vec<_> = report.failed_endpoints.keys().cloned().collect();
        assert_eq!(failed, [workload_id("web-1"), workload_id("web-2")], "errno {errno}");
        assert_in_force(&mut dataplane);
    }
}

#[test]
fn an_element_of_a_verdict_map_that_is_refused_concerns_its_endpoint_alone() {
    let mut dataplane = over(FakeKernel::default());
    apply(&mut dataplane, &small_world()).unwrap();
    dataplane.kernel_mut().curse("cali-to-wl-dispatch", libc::ENOSPC);
    let pod =
        Changes { workload_endpoints: vec![workload("late", &["10.65.0.9"], &[])], ..Changes::default() };
    let report = apply(&mut dataplane, &pod).unwrap();
    let failed: Vec<_> = report.failed_endpoints.keys().cloned().collect();
    assert_eq!(failed, [workload_id("late")]);
    let map = &dataplane.compiler().table().desired().sets["cali-to-wl-dispatch"];
    assert_eq!(map.elements.len(), 3, "without an element the interface is unknown: dropped");
    assert_in_force(&mut dataplane);
}

/// What says nothing about an object fails as a whole, leaves what was in force in force, and heals.
#[test]
fn errors_of_the_system_leave_everything_as_it_was() {
    for errno in [libc::EPERM, libc::ENOMEM, libc::ENOBUFS] {
        let mut dataplane = over(FakeKernel::default());
        apply(&mut dataplane, &small_world()).unwrap();
        let before = dataplane.kernel_mut().ruleset(TABLE).cloned();
        dataplane.kernel_mut().fail_next([Fault::Refuse(errno), Fault::Refuse(errno)]);
        let pod =
            Changes { workload_endpoints: vec![workload("late", &["10.65.0.9"], &[])], ..Changes::default() };
        let error = apply(&mut dataplane, &pod).unwrap_err();
        assert!(matches!(&error, KernelError::Refused(refusals) if refusals[0].errno == errno), "{error}");
        assert!(dataplane.kernel_mut().ruleset(TABLE) == before.as_ref(), "nothing half-applied");
        assert!(dataplane.resync().is_err());
        assert!(dataplane.resync().unwrap().failed_endpoints.is_empty());
        assert_in_force(&mut dataplane);
    }
}
