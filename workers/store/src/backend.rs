//! Turns a URL and options into an object store.

use std::{
    path,
    sync::{Arc, OnceLock},
};

use object_store::{
    BackoffConfig, ClientConfigKey, ObjectStore, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey},
    azure::{AzureConfigKey, MicrosoftAzure, MicrosoftAzureBuilder},
    gcp::{GoogleCloudStorage, GoogleCloudStorageBuilder, GoogleConfigKey},
    local::LocalFileSystem,
    multipart::MultipartStore,
    path::Path,
};
use url::Url;

use crate::{
    StoreConfig, StoreError,
    part_copy::{ClientKeeper, CopySettings, PartCopier},
};

/// The client's own limit for a request, beyond every deadline.
const CLIENT_TIMEOUT: &str = "1 day";

/// The opened store and what only some kinds can do.
#[derive(Debug)]
pub(crate) enum StoreBackend {
    /// Opened when the root is first there: one that is away at the start is waited for.
    Local {
        store: OnceLock<LocalFileSystem>,
        root: path::PathBuf,
    },
    S3(RemoteBucket<AmazonS3>, Option<Arc<PartCopier>>),
    Google(RemoteBucket<GoogleCloudStorage>),
    Azure(RemoteBucket<MicrosoftAzure>),
}

#[derive(Debug)]
pub(crate) struct RemoteBucket<S> {
    store: Arc<S>,
    prefix: Path,
}

impl StoreBackend {
    pub(crate) fn open(config: &StoreConfig) -> Result<Self, StoreError> {
        let url = Url::parse(&config.url).map_err(|e| StoreError::Invalid(format!("store url: {e}")))?;
        match url.scheme() {
            "file" => open_local(&url),
            "s3" => open_s3(&url, config),
            "gs" => Ok(Self::Google(open_google(&url, config)?)),
            "az" => Ok(Self::Azure(open_azure(&url, config)?)),
            other => Err(StoreError::Invalid(format!("store url: unknown scheme {other}"))),
        }
    }

    pub(crate) fn object_store(&self) -> Result<&dyn ObjectStore, StoreError> {
        Ok(match self {
            Self::Local { store, root } => {
                if let Some(store) = store.get() {
                    store
                } else {
                    let opened = LocalFileSystem::new_with_prefix(root).map_err(StoreError::unavailable)?;
                    store.get_or_init(|| opened)
                }
            }
            Self::S3(remote, _) => &*remote.store,
            Self::Google(remote) => &*remote.store,
            Self::Azure(remote) => &*remote.store,
        })
    }

    /// The multipart API, absent for a local store.
    pub(crate) fn multipart_store(&self) -> Option<Arc<dyn MultipartStore>> {
        match self {
            Self::Local { .. } => None,
            Self::S3(remote, _) => Some(remote.store.clone()),
            Self::Google(remote) => Some(remote.store.clone()),
            Self::Azure(remote) => Some(remote.store.clone()),
        }
    }

    /// What makes parts of stored objects without reading them, where the store may be able to.
    pub(crate) fn part_copier(&self) -> Option<&Arc<PartCopier>> {
        match self {
            Self::S3(_, copier) => copier.as_ref(),
            Self::Local { .. } | Self::Google(_) | Self::Azure(_) => None,
        }
    }

    /// Folder of a local store.
    pub(crate) fn local_root(&self) -> Option<&path::Path> {
        match self {
            Self::Local { root, .. } => Some(root),
            _ => None,
        }
    }

    fn key_prefix(&self) -> Option<&Path> {
        match self {
            Self::Local { .. } => None,
            Self::S3(remote, _) => Some(&remote.prefix),
            Self::Google(remote) => Some(&remote.prefix),
            Self::Azure(remote) => Some(&remote.prefix),
        }
    }

    pub(crate) fn object_path(&self, key: &str) -> Result<Path, StoreError> {
        let path = match self.key_prefix() {
            Some(prefix) if !prefix.as_ref().is_empty() => Path::parse(format!("{prefix}/{key}")),
            _ => Path::parse(key),
        };
        path.map_err(|e| StoreError::Invalid(e.to_string()))
    }

    pub(crate) fn object_key(&self, path: &Path) -> Result<String, StoreError> {
        let text = path.as_ref();
        let Some(prefix) = self.key_prefix().filter(|p| !p.as_ref().is_empty()) else {
            return Ok(text.to_owned());
        };
        text.strip_prefix(prefix.as_ref())
            .map(|rest| rest.trim_start_matches('/').to_owned())
            .ok_or_else(|| StoreError::Invalid(format!("{text} lies outside the prefix of the store")))
    }
}

/// Refuses an address that [`StoreBackend::open`] would not take.
///
/// # Errors
/// What is wrong, for people.
pub(crate) fn check_address(text: &str) -> Result<(), String> {
    const RIGHT: &str =
        "write file:///folder, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix";
    let wrong = |what: String| format!("{what}; {RIGHT}");
    let url = Url::parse(text).map_err(|error| wrong(format!("no address ({error})")))?;
    match url.scheme() {
        "file" => {
            url.to_file_path().map(drop).map_err(|()| wrong("a folder needs its absolute path".to_owned()))
        }
        "s3" | "gs" | "az" => {
            parse_bucket(&url).and(parse_prefix(&url)).map(drop).map_err(|error| wrong(error.to_string()))
        }
        other => Err(wrong(format!("{other} is no kind of store"))),
    }
}

/// Refuses an option that the store at `address` does not have.
///
/// # Errors
/// What is wrong, for people.
pub(crate) fn check_option(address: &str, name: &str) -> Result<(), String> {
    let parsed = match address.split_once("://").map(|(scheme, _)| scheme) {
        Some("s3") => parse_option_key::<AmazonS3ConfigKey>(name).map(drop),
        Some("gs") => parse_option_key::<GoogleConfigKey>(name).map(drop),
        Some("az") => parse_option_key::<AzureConfigKey>(name).map(drop),
        // A folder has none, and a file that names some may have served a bucket before.
        _ => Ok(()),
    };
    parsed.map_err(|_| {
        format!("the store at {} has no such option", address.split("://").next().unwrap_or_default())
    })
}

fn open_local(url: &Url) -> Result<StoreBackend, StoreError> {
    let root = url
        .to_file_path()
        .map_err(|()| StoreError::Invalid("store url: a file url needs an absolute path".into()))?;
    Ok(StoreBackend::Local { store: OnceLock::new(), root })
}

/// Puts our settings over what the builder read from the environment, one by one: what is not set here stays as it was said there.
macro_rules! configured {
    ($builder:expr, $key:ident, [$($endpoint:ident),+], $config:expr) => {{
        // Each request has a deadline of its own, by its bytes.
        let mut builder = $builder.with_config($key::Client(ClientConfigKey::Timeout), CLIENT_TIMEOUT);
        for (name, value) in &$config.options {
            builder = builder.with_config(parse_option_key::<$key>(name)?, value);
        }
        // An endpoint given as http:// is a deliberate choice (a store on the same host or network).
        let endpoints = [$(builder.get_config_value(&$key::$endpoint)),+];
        if endpoints.iter().flatten().any(|endpoint| endpoint.starts_with("http://")) {
            builder = builder.with_config($key::Client(ClientConfigKey::AllowHttp), "true");
        }
        builder.with_retry(retry_config($config))
    }};
}

fn open_s3(url: &Url, config: &StoreConfig) -> Result<StoreBackend, StoreError> {
    let clients = ClientKeeper::default();
    let builder =
        AmazonS3Builder::from_env().with_bucket_name(parse_bucket(url)?).with_http_connector(clients.clone());
    let builder = configured!(builder, AmazonS3ConfigKey, [Endpoint, S3Endpoint], config);
    let settings = CopySettings::of(&builder);
    let store = Arc::new(builder.build()?);
    let copier = PartCopier::new(store.clone(), &settings, &clients, retry_config(config)).map(Arc::new);
    Ok(StoreBackend::S3(RemoteBucket { store, prefix: parse_prefix(url)? }, copier))
}

fn open_google(url: &Url, config: &StoreConfig) -> Result<RemoteBucket<GoogleCloudStorage>, StoreError> {
    let builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(parse_bucket(url)?);
    let store = configured!(builder, GoogleConfigKey, [BaseUrl], config).build()?;
    Ok(RemoteBucket { store: Arc::new(store), prefix: parse_prefix(url)? })
}

fn open_azure(url: &Url, config: &StoreConfig) -> Result<RemoteBucket<MicrosoftAzure>, StoreError> {
    let builder = MicrosoftAzureBuilder::from_env().with_container_name(parse_bucket(url)?);
    let store = configured!(builder, AzureConfigKey, [Endpoint], config).build()?;
    Ok(RemoteBucket { store: Arc::new(store), prefix: parse_prefix(url)? })
}

fn parse_bucket(url: &Url) -> Result<&str, StoreError> {
    url.host_str()
        .filter(|host| !host.is_empty())
        .ok_or_else(|| StoreError::Invalid("store url: the bucket is missing".into()))
}

fn parse_prefix(url: &Url) -> Result<Path, StoreError> {
    Path::from_url_path(url.path().trim_matches('/'))
        .map_err(|e| StoreError::Invalid(format!("store url: {e}")))
}

fn parse_option_key<K: std::str::FromStr>(name: &str) -> Result<K, StoreError> {
    name.to_ascii_lowercase()
        .parse()
        .map_err(|_| StoreError::Invalid(format!("store option {name} is not known")))
}

fn retry_config(config: &StoreConfig) -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig::default(),
        max_retries: config.retries_max,
        retry_timeout: config.retry_timeout(),
    }
}
