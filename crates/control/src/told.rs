//! What an agent says, made short and harmless: it is stored, logged and listed, and a node may lie.

use cassy_agent_protocol::Reply;

use crate::nodes::NodeError;

/// Of one text.
const TEXT_BYTES: usize = 4 << 10;
/// Of one list of texts.
const TEXTS: usize = 100;

/// The answer to a request.
pub(crate) fn told(outcome: Result<Reply, NodeError>) -> Result<Reply, NodeError> {
    match outcome {
        Ok(mut reply) => {
            match &mut reply {
                Reply::SnapshotChecked { broken } => shorten(broken),
                Reply::Uploaded(summary) => shorten(&mut summary.corrupt),
                Reply::Planned(plan) => {
                    shorten(&mut plan.findings);
                    shorten(&mut plan.warnings);
                }
                Reply::Restored(summary) => shorten(&mut summary.notes),
                Reply::Undone { left } => *left = left.take().map(|left| short(&left)),
                _ => {}
            }
            Ok(reply)
        }
        Err(NodeError { kind, message, hint }) => {
            Err(NodeError { kind, message: short(&message), hint: hint.map(|hint| short(&hint)) })
        }
    }
}

fn shorten(texts: &mut Vec<String>) {
    let more = texts.len().saturating_sub(TEXTS);
    texts.truncate(TEXTS);
    texts.iter_mut().for_each(|text| *text = short(text));
    if more > 0 {
        texts.push(format!("and {more} more"));
    }
}

/// In one line, without what moves a terminal's cursor.
fn short(text: &str) -> String {
    let end = text.floor_char_boundary(TEXT_BYTES);
    let (kept, _) = text.split_at(end);
    let mut short = String::with_capacity(end);
    for character in kept.chars() {
        if character.is_control() {
            short.extend(character.escape_default());
        } else {
            short.push(character);
        }
    }
    if end < text.len() {
        short.push_str(" [..]");
    }
    short
}

#[cfg(test)]
mod tests {
    use cassy_agent_protocol::RestorePlan;

    use super::*;
    use crate::nodes::NodeErrorKind;

    #[test]
    fn what_a_node_says_is_short_and_in_one_line() {
        let findings = vec!["\u{1b}[2Jgone\n".repeat(2_000); 5_000];
        let plan = RestorePlan { findings, ..RestorePlan::default() };
        let Ok(Reply::Planned(plan)) = told(Ok(Reply::Planned(plan))) else { panic!("a plan") };
        assert_eq!((plan.findings.len(), plan.findings[TEXTS].as_str()), (101, "and 4900 more"));
        assert!(plan.findings[0].starts_with("\\u{1b}[2Jgone\\n") && plan.findings[0].ends_with(" [..]"));
        assert!(plan.findings[0].len() < 5 * TEXT_BYTES);
        let lie = NodeError {
            hint: Some("ü".repeat(1 << 20)),
            ..NodeError::new(NodeErrorKind::Permanent, "x".repeat(16 << 20))
        };
        let Err(error) = told(Err(lie)) else { panic!("an error") };
        assert!(error.message.len() < 5_000 && error.hint.is_some_and(|hint| hint.len() < 5_000));
        let same = NodeError::new(NodeErrorKind::Gone, "10.0.0.1: it ends, größer");
        assert_eq!(told(Err(same.clone())), Err(same));
    }
}
