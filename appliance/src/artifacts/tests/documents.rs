//! Bucket documents over a restart, and with their bucket.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn documents_outlive_a_restart_and_go_with_their_bucket() {
    let store = Store::new().await;
    let (policy, long) = (DocumentKind::Policy, vec![b'x'; DOCUMENT_BYTES_MAX]);
    let artifacts = &store.artifacts;
    assert!(artifacts.document(BUCKET, policy).unwrap().is_none());
    artifacts.set_document(BUCKET, policy, Some(long.clone())).await.unwrap();
    artifacts.set_document(BUCKET, DocumentKind::Cors, Some(b"one".to_vec())).await.unwrap();
    let over = artifacts.set_document(BUCKET, policy, Some(vec![0; DOCUMENT_BYTES_MAX + 1])).await;
    assert!(matches!(over, Err(ArtifactError::InvalidRequest(_))));
    let absent = artifacts.set_document("absent", policy, Some(Vec::new())).await;
    assert!(matches!(absent, Err(ArtifactError::NoSuchBucket(_))));

    let store = store.reopen();
    assert_eq!(store.artifacts.document(BUCKET, policy).unwrap().unwrap().bytes(), long);
    store.artifacts.set_document(BUCKET, policy, Some(b"short".to_vec())).await.unwrap();
    store.artifacts.set_document(BUCKET, DocumentKind::Cors, None).await.unwrap();
    store.artifacts.set_document(BUCKET, DocumentKind::Cors, None).await.unwrap();

    let store = store.reopen();
    assert_eq!(store.artifacts.document(BUCKET, policy).unwrap().unwrap().bytes(), b"short");
    assert!(store.artifacts.document(BUCKET, DocumentKind::Cors).unwrap().is_none());
    store.artifacts.delete_bucket(BUCKET).await.unwrap();
    store.artifacts.create_bucket(BUCKET, "us-east-1").await.unwrap();
    assert!(store.artifacts.document(BUCKET, policy).unwrap().is_none());

    let store = store.reopen();
    assert!(store.artifacts.document(BUCKET, policy).unwrap().is_none());
}
