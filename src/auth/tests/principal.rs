use schemas::access;
use web::access_sums::ShownCredential;

use super::super::{Principal, describe_credential, key::parse_key};

#[test]
fn refuses_what_is_no_key() {
    for text in ["", "sg_", "sg__x", "sg_short_x", "Bearer", "sk_00000000000000000000000000_x"] {
        assert!(parse_key(text).is_none(), "{text}");
    }
    assert!(parse_key("sg_00000000000000000000000000_secret").is_some());
}

#[test]
fn a_credential_is_described_by_its_form_and_public_half() {
    let id = "00000000000000000000000000";
    for (text, wanted) in [
        (format!("sg_{id}_secret"), ShownCredential::ApiKey(id.parse().unwrap())),
        (format!("sgu_{id}_secret"), ShownCredential::UploadGrant(id.parse().unwrap())),
        (format!("sg_{id}"), ShownCredential::Unknown),
        ("sg_secret_in_place_of_an_id".to_owned(), ShownCredential::Unknown),
        ("a.b.c".to_owned(), ShownCredential::Unknown),
        (String::new(), ShownCredential::Unknown),
    ] {
        assert_eq!(describe_credential(&text), wanted, "{text}");
    }
}

#[test]
fn an_owner_sees_only_its_own() {
    let owner = Principal::new("ann", access::PrincipalRole::Owner);
    assert!(owner.may_see("ann") && owner.may_change("ann"));
    assert!(!owner.may_see("bob") && !owner.may_change("bob"));
    let operator = Principal::new("ops", access::PrincipalRole::Operator);
    assert!(operator.may_see("bob") && !operator.may_change("bob") && !operator.may_change("ops"));
}
