//! Long outputs and artifacts, as `resources/list` and `resources/read` give them.
// A test may panic, and `json!` is handed over as it is.
#![allow(clippy::unwrap_used, clippy::needless_pass_by_value)]

mod fixture;

use fixture::{Fixture, clients, params};
use rmcp::model::{ErrorCode, ReadResourceRequestParams, ResourceContents};
use rmcp::service::ServiceError;
use serde_json::json;
use supervisor::results::READ_BYTES_MAX;

#[tokio::test]
async fn long_output_is_read_in_parts_that_make_the_whole() {
    let fixture = Fixture::new();
    let size = usize::try_from(READ_BYTES_MAX).unwrap() * 2 + 10;
    for client in clients(&fixture).await {
        let text = format!("keep {}", size - size % 10);
        let result = client
            .call_tool(params("alpha", json!({"text": text})))
            .await
            .unwrap();
        let link = result.content[1].as_resource_link().unwrap();
        let mut next = Some(link.uri.clone());
        let mut whole = String::new();
        while let Some(uri) = next {
            let read = client
                .read_resource(ReadResourceRequestParams::new(uri))
                .await
                .unwrap();
            let ResourceContents::TextResourceContents { text, meta, .. } = &read.contents[0]
            else {
                panic!("{read:?}");
            };
            whole.push_str(text);
            let part = &meta.as_ref().unwrap().0["dev.toolcell/part"];
            next = part["next"].as_str().map(str::to_owned);
        }
        assert_eq!(whole, "0123456789".repeat(size / 10));
    }
}

#[tokio::test]
async fn artifact_that_is_no_text_is_read_in_base64() {
    let fixture = Fixture::new();
    let [client, _] = clients(&fixture).await;
    let arguments = json!({"text": "leave plots/é 1.bin"});
    let result = client.call_tool(params("alpha", arguments)).await.unwrap();
    let listed = client.list_resources(None).await.unwrap().resources;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].name, "plots/é 1.bin");
    assert!(
        listed[0].uri.ends_with("/files/plots/%C3%A9%201.bin"),
        "{}",
        listed[0].uri
    );
    assert_eq!(
        result.content[1].as_resource_link().unwrap().uri,
        listed[0].uri
    );
    let uri = listed[0].uri.clone();
    let read = client
        .read_resource(ReadResourceRequestParams::new(uri))
        .await
        .unwrap();
    let ResourceContents::BlobResourceContents { blob, .. } = &read.contents[0] else {
        panic!("{read:?}");
    };
    assert_eq!(blob, "/wBiaW5hcnk=");
}

#[tokio::test]
async fn unknown_resource_is_the_eras_own_error() {
    let fixture = Fixture::new();
    let expected = [ErrorCode::RESOURCE_NOT_FOUND, ErrorCode::INVALID_PARAMS];
    for (client, code) in clients(&fixture).await.into_iter().zip(expected) {
        for uri in ["toolcell://results/0/stdout", "file:///etc/passwd"] {
            let error = client
                .read_resource(ReadResourceRequestParams::new(uri))
                .await;
            let ServiceError::McpError(error) = error.unwrap_err() else {
                panic!("another error");
            };
            assert_eq!(error.code, code);
        }
    }
}
