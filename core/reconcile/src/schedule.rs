//! Which actions of a plan may begin. Pure.

use crate::plan::{Action, Plan};

/// How an action stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Not begun.
    Open,
    /// Under way.
    Begun,
    /// Behind us.
    Done,
    /// What it needs is not ready yet: it is left to another plan.
    Later,
    /// It failed, or what it needs did.
    Failed,
}

/// A plan that is being carried out.
#[derive(Debug)]
pub(crate) struct Schedule<'a> {
    plan: &'a Plan,
    marks: Vec<Mark>,
    /// Actions at once. Waiting for something is none.
    limit: usize,
}

impl<'a> Schedule<'a> {
    /// Nothing has begun.
    pub(crate) fn new(plan: &'a Plan, limit: usize) -> Self {
        Self { plan, marks: vec![Mark::Open; plan.nodes.len()], limit: limit.max(1) }
    }

    /// The actions that begin now, in the plan's order. What stands behind one that failed or is left is so, too.
    pub(crate) fn begin(&mut self) -> Vec<usize> {
        let is_work = |action: &Action| !matches!(action, Action::Await { .. });
        let under_way = |(node, mark): (&crate::plan::Node, &Mark)| *mark == Mark::Begun && is_work(&node.action);
        let mut busy = self.plan.nodes.iter().zip(&self.marks).filter(|pair| under_way(*pair)).count();
        let mut begun = Vec::new();
        for (number, node) in self.plan.nodes.iter().enumerate() {
            if self.marks[number] != Mark::Open {
                continue;
            }
            // A plan is in an order that is possible, so one pass reaches what follows from what.
            let behind = |mark: Mark| node.after.iter().any(|after| self.marks[*after] == mark);
            if let Some(mark) = [Mark::Failed, Mark::Later].into_iter().find(|mark| behind(*mark)) {
                self.marks[number] = mark;
                continue;
            }
            let work = is_work(&node.action);
            if node.after.iter().all(|after| self.marks[*after] == Mark::Done) && (!work || busy < self.limit) {
                self.marks[number] = Mark::Begun;
                busy += usize::from(work);
                begun.push(number);
            }
        }
        begun
    }

    /// Notes what became of an action.
    pub(crate) fn note(&mut self, number: usize, mark: Mark) {
        self.marks[number] = mark;
    }

    /// Whether it was cut short. What is done is reached, whoever may have asked for something newer meanwhile.
    pub(crate) fn is_cut(&self, cancelled: bool) -> bool {
        cancelled && !self.marks.iter().all(|mark| *mark == Mark::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Node;
    use sampan_compose::model::Condition;

    fn stop(number: usize, after: &[usize]) -> Node {
        let text = number.to_string();
        let action = Action::Stop { service: text.clone(), name: text.clone(), id: text };
        Node { action, after: after.to_vec() }
    }

    fn wait(after: &[usize]) -> Node {
        let action = Action::Await { service: "db".to_owned(), condition: Condition::Healthy, required: true };
        Node { action, after: after.to_vec() }
    }

    fn plan(nodes: Vec<Node>) -> Plan {
        Plan { nodes, warnings: Vec::new() }
    }

    #[test]
    fn waiting_takes_nobodys_turn() {
        let plan = plan(vec![wait(&[]), wait(&[]), stop(2, &[]), stop(3, &[]), stop(4, &[0])]);
        let mut schedule = Schedule::new(&plan, 1);
        assert_eq!(schedule.begin(), [0, 1, 2], "one at a time beside those that wait");
        schedule.note(2, Mark::Done);
        assert_eq!(schedule.begin(), [3]);
        schedule.note(0, Mark::Done);
        assert_eq!(schedule.begin(), [0; 0]);
        schedule.note(3, Mark::Done);
        assert_eq!(schedule.begin(), [4]);
        schedule.note(4, Mark::Done);
        schedule.note(1, Mark::Done);
        assert!(schedule.begin().is_empty());
        assert!(!schedule.is_cut(true), "what was asked for at its very end takes nothing back");
    }

    #[test]
    fn what_stands_behind_a_failure_or_a_wait_is_left_out_and_the_rest_goes_on() {
        let plan = plan(vec![wait(&[]), stop(1, &[]), stop(2, &[0]), stop(3, &[2]), stop(4, &[1]), stop(5, &[])]);
        let mut schedule = Schedule::new(&plan, 9);
        assert_eq!(schedule.begin(), [0, 1, 5]);
        schedule.note(0, Mark::Later);
        schedule.note(1, Mark::Failed);
        assert_eq!(schedule.begin(), [0; 0]);
        assert_eq!(schedule.marks[2..5], [Mark::Later, Mark::Later, Mark::Failed]);
        assert!(schedule.is_cut(true) && !schedule.is_cut(false));
    }
}
