//! Calico's Linux dataplane: netlink, nf_tables, routes, links and the reconciling driver.

pub mod driver;
pub mod manager;
pub mod netlink;
pub mod netns;
pub mod nft;
pub mod pod;
pub mod reconcile;
pub mod sys;
pub mod sysctl;
