use schemas::access;

use super::super::{Principal, key::parse_key};

#[test]
fn refuses_what_is_no_key() {
    for text in ["", "sg_", "sg__x", "sg_short_x", "Bearer", "sk_00000000000000000000000000_x"] {
        assert!(parse_key(text).is_none(), "{text}");
    }
    assert!(parse_key("sg_00000000000000000000000000_secret").is_some());
}

#[test]
fn an_owner_sees_only_its_own() {
    let owner = Principal::new("ann", access::PrincipalRole::Owner);
    assert!(owner.may_see("ann") && owner.may_change("ann"));
    assert!(!owner.may_see("bob") && !owner.may_change("bob"));
    let operator = Principal::new("ops", access::PrincipalRole::Operator);
    assert!(operator.may_see("bob") && !operator.may_change("bob") && !operator.may_change("ops"));
}
