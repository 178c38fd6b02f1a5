//! Updates of a part that many receivers get. The receivers that are at the same revision share one encoded message.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::lines::EncodedLine;
use crate::link::LinkError;
use crate::message::ServerMessage;
use crate::update::{PartStep, SentPart};

/// Maximum number of messages to one revision that are kept. Receivers are seldom at more revisions than that.
const KEPT_MAX: usize = 16;

/// The encoded updates to the newest revision of a part.
#[derive(Debug, Default)]
pub struct EncodedUpdates(Mutex<NewestUpdates>);

#[derive(Debug, Default)]
struct NewestUpdates {
    revision: u64,
    /// The messages by the revision before the step; none for the complete part.
    lines: BTreeMap<Option<u64>, EncodedLine>,
    /// Number of messages that were encoded.
    encodings: u64,
}

impl EncodedUpdates {
    /// Returns the message that carries out a step. Two steps between the same revisions are the same step.
    ///
    /// # Errors
    /// [`LinkError::Message`] if the update has no form in JSON.
    pub fn line<T: SentPart>(&self, step: &PartStep<T>) -> Result<EncodedLine, LinkError> {
        let (base, revision) = step.revisions();
        // The lock is held meanwhile, so that the other receivers wait for the message instead of encoding it, too.
        let mut newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if newest.revision == revision
            && let Some(line) = newest.lines.get(&base)
        {
            return Ok(line.clone());
        }
        let line = EncodedLine::of(&ServerMessage::Update(step.update()))?;
        newest.encodings += 1;
        if newest.revision < revision {
            (newest.revision, newest.lines) = (revision, BTreeMap::new());
        }
        // A receiver that reads an older view does not take the place of the newest messages.
        if newest.revision == revision && newest.lines.len() < KEPT_MAX {
            newest.lines.insert(base, line.clone());
        }
        Ok(line)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use gantry_model::{AppName, AppRoutes, Generation, Plan};

    use super::*;
    use crate::shared_routes::SharedRoutes;
    use crate::update::UpdateSender;

    fn routes(revision: u64) -> Arc<SharedRoutes> {
        let mut plan = Plan::default();
        let (revision, names) = (Generation(revision), Some(Default::default()));
        let app = AppName::parse(&format!("app-{}", revision.0)).expect("a name");
        plan.put_routes(app, Arc::new(AppRoutes { revision, names, ..AppRoutes::default() }));
        Arc::new(SharedRoutes::of(&plan))
    }

    fn encodings(updates: &EncodedUpdates) -> u64 {
        updates.0.lock().expect("no panic").encodings
    }

    #[test]
    fn a_hundred_routers_cost_one_encoding_for_each_revision_that_they_have() {
        let (updates, parts) = (EncodedUpdates::default(), [1, 2, 3].map(routes));
        let mut routers: Vec<UpdateSender<SharedRoutes>> = (0..100).map(|_| UpdateSender::new(None)).collect();
        let give = |routers: &mut [UpdateSender<SharedRoutes>], part: &Arc<SharedRoutes>| {
            let mut lines = Vec::new();
            for router in routers {
                if let Some(step) = router.advance(part.revision().0, part) {
                    let line = updates.line(&step).expect("encoded");
                    assert_eq!(line, EncodedLine::of(&ServerMessage::Update(step.update())).expect("encoded"));
                    lines.push(line);
                }
            }
            (lines.len(), encodings(&updates))
        };
        assert_eq!(give(&mut routers, &parts[0]), (100, 1));
        assert_eq!(give(&mut routers, &parts[0]), (0, 1));
        assert_eq!(give(&mut routers[..90], &parts[1]), (90, 2));
        // Ten routers are a revision behind the others.
        assert_eq!(give(&mut routers, &parts[2]), (100, 4));
        assert_eq!(updates.0.lock().expect("no panic").lines.len(), 2, "the messages to the newest revision alone");
    }

    #[test]
    fn an_older_step_leaves_the_newest_messages() {
        let (updates, parts) = (EncodedUpdates::default(), [1, 2].map(routes));
        let step = |part: &Arc<SharedRoutes>| UpdateSender::new(None).advance(part.revision().0, part).expect("a step");
        let newest = updates.line(&step(&parts[1])).expect("encoded");
        assert_ne!(updates.line(&step(&parts[0])).expect("encoded"), newest);
        assert_eq!(updates.line(&step(&parts[1])).expect("encoded"), newest);
        assert_eq!(encodings(&updates), 2);
    }
}
