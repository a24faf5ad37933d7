//! The two halves of an apply: what is wanted is laid over what is there, and what is no longer wanted, and nobody else's, is taken away.

use serde_json::{Map, Value};

use super::{
    set::{Set, Step},
    shape::{Schema, Shape, entries},
};

/// Lays a document over another: maps by their fields, lists by their entries, everything else as a whole.
pub fn lay_over(schema: Schema<'_>, under: &Value, over: &Value) -> Value {
    match (schema.shape(under), schema.shape(over)) {
        (Shape::Map(under), Shape::Map(over)) => {
            let mut merged = under.clone();
            for (name, over) in over {
                let schema = schema.property(name).0;
                let value = under.get(name).map_or_else(|| over.clone(), |under| lay_over(schema, under, over));
                merged.insert(name.clone(), value);
            }
            Value::Object(merged)
        }
        _ => match (entries(schema, under), entries(schema, over)) {
            (Some(under), Some(over)) => Value::Array(interleave(schema.items(), under, &over)),
            _ => over.clone(),
        },
    }
}

/// What is wanted comes in its own order, and what is only there stays behind the entry that it stood behind.
fn interleave(schema: Schema<'_>, under: Vec<(Step, &Value)>, over: &[(Step, &Value)]) -> Vec<Value> {
    let place = |step: &Step| over.iter().position(|(wanted, _)| wanted == step);
    // (place, how far behind it) → entry
    let mut ranked: Vec<(usize, usize, Value)> = Vec::with_capacity(under.len() + over.len());
    let (mut behind, mut far) = (0, 0);
    let mut met = vec![None; over.len()];
    for (step, value) in under {
        match place(&step) {
            Some(at) => {
                (behind, far) = (at + 1, 0);
                if let Some(slot) = met.get_mut(at) {
                    *slot = Some(value);
                }
            }
            None => {
                far += 1;
                ranked.push((behind, far, value.clone()));
            }
        }
    }
    for (at, ((_, wanted), there)) in over.iter().zip(met).enumerate() {
        let value = there.map_or_else(|| (*wanted).clone(), |there| lay_over(schema, there, wanted));
        ranked.push((at + 1, 0, value));
    }
    ranked.sort_by_key(|(place, far, _)| (*place, *far));
    ranked.into_iter().map(|(_, _, value)| value).collect()
}

/// Takes away what `last` has and `kept` has not. A field that the schema names stays as long as anything below it is kept; an entry of a
/// map or list goes with all that is in it when it was claimed itself.
pub fn give_up(schema: Schema<'_>, value: &mut Value, last: &Set, kept: &Set) {
    let none = Set::default();
    let whole_list = entries(schema, value).map(|all| all.into_iter().map(|(step, _)| step).collect::<Vec<_>>());
    match value {
        Value::Object(map) => {
            let mut gone = Vec::new();
            for (step, last) in last.steps() {
                let Step::Field(name) = step else { continue };
                let (schema, named) = schema.property(name);
                let kept = kept.below(step).unwrap_or(&none);
                let stays = kept.member || (named && !kept.is_empty());
                if (named || last.member) && !stays {
                    gone.push(name);
                } else if let Some(value) = map.get_mut(name) {
                    give_up(schema, value, last, kept);
                }
            }
            for name in gone {
                map.remove(name);
            }
        }
        Value::Array(list) => {
            let mut steps = whole_list.unwrap_or_default().into_iter();
            list.retain_mut(|entry| {
                let Some(step) = steps.next() else { return true };
                let Some(last) = last.below(&step) else { return true };
                let kept = kept.below(&step).unwrap_or(&none);
                if last.member && !kept.member {
                    return false;
                }
                give_up(schema.items(), entry, last, kept);
                true
            });
        }
        _ => {}
    }
}

/// Takes out fields that are `null`: to apply none is to say nothing of it.
pub fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            *map = std::mem::take(map).into_iter().filter(|(_, value)| !value.is_null()).collect::<Map<_, _>>();
            map.values_mut().for_each(without_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(without_nulls),
        _ => {}
    }
}
