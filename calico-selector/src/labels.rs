//! Where labels come from: maps, lists, closures, and items that inherit from parents without copies.

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher;
use std::marker::PhantomData;

/// Something that has labels.
pub trait Labels {
    /// The value of a label, `None` when the label is absent.
    fn get(&self, name: &str) -> Option<&str>;

    /// Who supplied a label that is present. Only [`crate::explain`] asks.
    fn origin(&self, _name: &str) -> Origin<'_> {
        Origin::Own
    }
}

/// Who supplied a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin<'a> {
    /// The item itself.
    Own,
    /// A parent of the item, such as the profile `kns.prod`.
    Parent(&'a str),
}

impl<L: Labels + ?Sized> Labels for &L {
    fn get(&self, name: &str) -> Option<&str> {
        (**self).get(name)
    }

    fn origin(&self, name: &str) -> Origin<'_> {
        (**self).origin(name)
    }
}

impl<K: Ord + std::borrow::Borrow<str>, V: AsRef<str>> Labels for BTreeMap<K, V> {
    fn get(&self, name: &str) -> Option<&str> {
        BTreeMap::get(self, name).map(AsRef::as_ref)
    }
}

impl<K, V: AsRef<str>, S: BuildHasher> Labels for HashMap<K, V, S>
where
    K: Eq + std::hash::Hash + std::borrow::Borrow<str>,
{
    fn get(&self, name: &str) -> Option<&str> {
        HashMap::get(self, name).map(AsRef::as_ref)
    }
}

/// A list of pairs, searched from the front: right for the handful of labels that one object has.
impl<K: AsRef<str>, V: AsRef<str>> Labels for [(K, V)] {
    fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(key, _)| key.as_ref() == name).map(|(_, value)| value.as_ref())
    }
}

impl<K: AsRef<str>, V: AsRef<str>, const N: usize> Labels for [(K, V); N] {
    fn get(&self, name: &str) -> Option<&str> {
        Labels::get(self.as_slice(), name)
    }
}

impl<K: AsRef<str>, V: AsRef<str>> Labels for Vec<(K, V)> {
    fn get(&self, name: &str) -> Option<&str> {
        Labels::get(self.as_slice(), name)
    }
}

/// No labels.
impl Labels for () {
    fn get(&self, _name: &str) -> Option<&str> {
        None
    }
}

/// Labels looked up by a closure; made by [`from_fn`].
pub struct FromFn<'a, F>(F, PhantomData<&'a str>);

/// Labels that a closure looks up.
///
/// ```
/// use calico_selector::{labels, Selector};
///
/// let labels = labels::from_fn(|name| (name == "role").then_some("db"));
/// assert!(Selector::parse("role == 'db'").unwrap().matches(&labels));
/// ```
pub fn from_fn<'a, F: Fn(&str) -> Option<&'a str>>(find: F) -> FromFn<'a, F> {
    FromFn(find, PhantomData)
}

impl<'a, F: Fn(&str) -> Option<&'a str>> Labels for FromFn<'a, F> {
    fn get(&self, name: &str) -> Option<&str> {
        (self.0)(name)
    }
}

/// Own labels and those of parents, looked up in place: own labels win, then the first parent that has the label.
///
/// ```
/// use calico_selector::labels::{Inherited, Labels, Origin};
///
/// let own = [("a", "own")];
/// let (first, second) = ([("a", "1"), ("c", "1")], [("c", "2"), ("d", "2")]);
/// let parents: [(&str, &dyn Labels); 2] = [("kns.x", &first), ("ksa.x.y", &second)];
/// let labels = Inherited::new(&own, &parents);
/// assert_eq!(labels.get("a"), Some("own"));
/// assert_eq!(labels.get("c"), Some("1"));
/// assert_eq!(labels.get("d"), Some("2"));
/// assert_eq!(labels.origin("d"), Origin::Parent("ksa.x.y"));
/// ```
#[derive(Clone, Copy)]
pub struct Inherited<'a> {
    own: &'a dyn Labels,
    parents: &'a [(&'a str, &'a dyn Labels)],
}

impl<'a> Inherited<'a> {
    /// A view of own labels and of named parents, in order of precedence. Leave a missing parent out.
    pub fn new(own: &'a dyn Labels, parents: &'a [(&'a str, &'a dyn Labels)]) -> Self {
        Self { own, parents }
    }
}

impl Labels for Inherited<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.own.get(name).or_else(|| self.parents.iter().find_map(|(_, labels)| labels.get(name)))
    }

    fn origin(&self, name: &str) -> Origin<'_> {
        if self.own.get(name).is_some() {
            return self.own.origin(name);
        }
        let parent = self.parents.iter().find(|(_, labels)| labels.get(name).is_some());
        parent.map_or(Origin::Own, |(parent, _)| Origin::Parent(parent))
    }
}

/// Prefix of labels inherited from a namespace.
pub const NAMESPACE_PREFIX: &str = "pcns.";
/// Prefix of labels inherited from a service account.
pub const SERVICE_ACCOUNT_PREFIX: &str = "pcsa.";
/// Label that holds the namespace of an endpoint or network set.
pub const NAMESPACE: &str = "projectcalico.org/namespace";
/// Label that holds the service account of an endpoint.
pub const SERVICE_ACCOUNT: &str = "projectcalico.org/serviceaccount";
/// Label that holds the orchestrator of an endpoint, `k8s` for pods.
pub const ORCHESTRATOR: &str = "projectcalico.org/orchestrator";

/// Whether a label name is reserved for inherited labels: users must not set it, for it would pass for a label of the
/// namespace or service account.
pub fn is_reserved(name: &str) -> bool {
    name.starts_with(NAMESPACE_PREFIX) || name.starts_with(SERVICE_ACCOUNT_PREFIX)
}
