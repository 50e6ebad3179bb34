//! What the datastore holds, as the policy library takes it, with changes laid over it.

use std::collections::BTreeMap;
use std::sync::Arc;

use calico_datastore::{Backend, Datastore as _, felix_view};
use calico_model::k8s::Derive;
use calico_model::{Key, Update, Value, defaults};
use calico_policy::oracle::World;

use crate::ctl::admission;
use crate::ctl::ipam::typed;
use crate::ctl::object::Object;
use crate::ctl::run::{Failed, block_on};

/// Objects by key.
pub(super) struct Resources {
    objects: BTreeMap<Key, Value>,
    /// What is stored and cannot be read.
    pub(super) warnings: Vec<String>,
}

impl Resources {
    /// Reads everything that policy depends on.
    pub(super) fn read(store: &Arc<dyn Backend>) -> Result<Self, Failed> {
        let list = block_on(typed(store).list(&felix_view()))??;
        let warnings = list
            .failures
            .iter()
            .map(|failure| format!("{} cannot be read and is left out: {}", failure.key, failure.reason));
        Ok(Self {
            warnings: warnings.collect(),
            objects: list.items.into_iter().map(|pair| (pair.key, pair.value)).collect(),
        })
    }

    /// Puts objects in, as applying them would.
    pub(super) fn put(&mut self, objects: &[Object]) -> Result<(), Failed> {
        for object in objects {
            admission::may_write(&object.id, "apply").map_err(|error| Failed(error.to_string()))?;
            let key = object.id.key();
            let mut value = Value::from_json(&key, object.tree.to_string().as_bytes())
                .map_err(|error| Failed(format!("{}: {}: {error}", object.place, object.id)))?;
            if let Value::Resource(resource) = &mut value {
                defaults::apply(Arc::make_mut(resource));
            }
            self.objects.insert(key, value);
        }
        Ok(())
    }

    /// Takes objects out; those that are not there are an error, since the simulation would be of something else.
    pub(super) fn delete(&mut self, objects: &[Object]) -> Result<(), Failed> {
        for object in objects {
            if self.objects.remove(&object.id.key()).is_none() {
                return Err(Failed(format!("{}: {} does not exist", object.place, object.id)));
            }
        }
        Ok(())
    }

    /// The updates that the policy library sees.
    pub(super) fn updates(&self) -> Vec<Update> {
        let mut derive = Derive::new();
        let raw = self.objects.iter().map(|(key, value)| Update::set(key.clone(), value.clone(), 1.into()));
        raw.flat_map(|update| derive.apply(update)).collect()
    }

    /// What they mean.
    pub(super) fn world(&self) -> World {
        World::new(self.updates())
    }
}
