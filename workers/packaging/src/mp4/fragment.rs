//! Reads fragmented MP4: one init segment, and the head of each media segment.
//!
//! The bytes come from a child that reads hostile files, so every number is checked before it is used.
//!
//! Limits: an init segment of [`INIT_BYTES_MAX`], [`SAMPLES_MAX`] samples in a segment.

use mp4_atom::{Atom, Buf, Codec, DecodeAtom, DecodeMaybe, Ftyp, Header, Moof, Moov, Styp, Traf, TrunEntry};

/// Largest init segment in bytes.
pub const INIT_BYTES_MAX: usize = 64 * 1024;

/// Most samples of one segment.
pub const SAMPLES_MAX: usize = 1_000_000;

/// ISO/IEC 14496-12, 8.8.3.1: `sample_is_non_sync_sample`.
const NON_SYNC: u32 = 0x0001_0000;

/// Bytes that are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct MalformedMp4(pub String);

impl MalformedMp4 {
    fn from_mp4_error(what: &str, error: &mp4_atom::Error) -> Self {
        Self(format!("{what}: {error}"))
    }
}

/// What an init segment says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitSegment {
    /// Major and compatible brands.
    pub brands: Vec<String>,
    /// Number of the track, the only one.
    pub track_id: u32,
    /// Ticks per second.
    pub timescale: u32,
    /// RFC 6381 codec string.
    pub codecs: String,
    /// Where presentation begins on the track's own timeline, as its edit list says, in ticks; 0 without one.
    pub edit_start_ticks: u64,
    /// What the track holds.
    pub kind: Mp4TrackKind,
    default_duration: u32,
    default_size: u32,
    default_flags: u32,
}

/// What a track holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mp4TrackKind {
    /// Pictures.
    Video {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// H.264 level times 10.
        level: u32,
        /// Bytes of a NAL unit's length.
        length_bytes: u8,
        /// True when the parameter sets lie in the init segment.
        has_parameter_sets: bool,
    },
    /// Sound.
    Audio {
        /// Channels.
        channels: u32,
        /// Samples per second.
        sample_rate_hz: u32,
    },
}

/// What the head of a media segment says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mp4Fragment {
    /// Decode time of the first sample, in ticks.
    pub start_ticks: u64,
    /// Sum of the sample durations, in ticks.
    pub duration_ticks: u64,
    /// How much later than it is decoded the first sample is presented, in ticks, edits left aside.
    pub composition_ticks: i64,
    /// Samples.
    pub sample_count: usize,
    /// Offsets of the sync samples from the first sample, in ticks.
    pub sync_ticks: Vec<u64>,
    /// Bytes of the whole segment, as its boxes say.
    pub size_bytes: u64,
    /// Place of the first sample's bytes in the segment.
    pub first_sample_offset: usize,
    /// Bytes of the first sample.
    pub first_sample_bytes: u32,
}

/// One sample of a media segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mp4Sample {
    /// Duration in ticks.
    pub duration_ticks: u32,
    /// Bytes.
    pub size_bytes: u32,
    /// How much later than it is decoded it is presented, in ticks, edits left aside.
    pub composition_ticks: i64,
    /// True when decoding may begin with it.
    pub is_sync: bool,
}

/// Reads an init segment.
pub fn read_init_segment(bytes: &[u8]) -> Result<InitSegment, MalformedMp4> {
    if bytes.len() > INIT_BYTES_MAX {
        return Err(MalformedMp4(format!("init segment of {} bytes", bytes.len())));
    }
    let mut rest = bytes;
    let (mut ftyp, mut moov) = (None, None);
    while let Some(header) = read_next_header(&mut rest)? {
        match header.kind {
            Ftyp::KIND => ftyp = Some(read_atom::<Ftyp>(&header, &mut rest, "ftyp")?),
            Moov::KIND => moov = Some(read_atom::<Moov>(&header, &mut rest, "moov")?),
            _ => skip_box(&header, &mut rest)?,
        }
    }
    let (Some(ftyp), Some(moov)) = (ftyp, moov) else {
        return Err(MalformedMp4("init segment without ftyp or moov".into()));
    };
    let [trak] = moov.trak.as_slice() else {
        return Err(MalformedMp4(format!("{} tracks in one init segment", moov.trak.len())));
    };
    let [codec] = trak.mdia.minf.stbl.stsd.codecs.as_slice() else {
        return Err(MalformedMp4("not exactly one sample description".into()));
    };
    let (codecs, kind) = describe_codec(codec)?;
    let trex =
        moov.mvex.as_ref().and_then(|mvex| mvex.trex.iter().find(|t| t.track_id == trak.tkhd.track_id));
    let Some(trex) = trex else { return Err(MalformedMp4("no track extends box".into())) };
    let brands =
        std::iter::once(ftyp.major_brand).chain(ftyp.compatible_brands).map(|b| b.to_string()).collect();
    let edits = trak
        .edts
        .as_ref()
        .and_then(|edts| edts.elst.as_ref())
        .map(|elst| elst.entries.as_slice())
        .unwrap_or_default();
    let edit_start_ticks = match edits {
        [] => 0,
        [edit] => edit.media_time.ok_or_else(|| MalformedMp4("an edit that is empty".into()))?,
        _ => return Err(MalformedMp4(format!("{} edits in one init segment", edits.len()))),
    };
    Ok(InitSegment {
        brands,
        track_id: trak.tkhd.track_id,
        timescale: trak.mdia.mdhd.timescale,
        codecs,
        edit_start_ticks,
        kind,
        default_duration: trex.default_sample_duration,
        default_size: trex.default_sample_size,
        default_flags: trex.default_sample_flags,
    })
}

/// Reads the head of a media segment. `bytes` may end behind the first sample; it must hold the whole `moof`.
pub fn read_fragment(init: &InitSegment, bytes: &[u8]) -> Result<Mp4Fragment, MalformedMp4> {
    let FragmentHead { moof, before_moof, mdat_offset, mdat_size } = read_fragment_head(bytes)?;
    read_track_fragment(init, &moof, before_moof, mdat_offset, mdat_size)
}

/// Reads the head of a media segment with each of its samples, in order of decoding. `bytes` may end behind the head of `mdat`.
pub fn read_samples(init: &InitSegment, bytes: &[u8]) -> Result<(Mp4Fragment, Vec<Mp4Sample>), MalformedMp4> {
    let FragmentHead { moof, before_moof, mdat_offset, mdat_size } = read_fragment_head(bytes)?;
    let fragment = read_track_fragment(init, &moof, before_moof, mdat_offset, mdat_size)?;
    let samples = moof.traf.first().map(|traf| resolve_samples(init, traf).collect());
    Ok((fragment, samples.unwrap_or_default()))
}

/// The boxes before the samples.
struct FragmentHead {
    moof: Moof,
    before_moof: usize,
    mdat_offset: usize,
    mdat_size: usize,
}

fn read_fragment_head(bytes: &[u8]) -> Result<FragmentHead, MalformedMp4> {
    let mut rest = bytes;
    let mut moof: Option<Moof> = None;
    let mut before_moof = 0;
    loop {
        let offset = bytes.len() - rest.len();
        let Some(header) = read_next_header(&mut rest)? else {
            return Err(MalformedMp4("segment without mdat".into()));
        };
        match header.kind {
            Moof::KIND if moof.is_some() => return Err(MalformedMp4("more than one moof".into())),
            Moof::KIND => {
                before_moof = offset;
                moof = Some(read_atom::<Moof>(&header, &mut rest, "moof")?);
            }
            mp4_atom::Mdat::KIND => {
                let (Some(moof), Some(size)) = (moof, header.size) else {
                    return Err(MalformedMp4("mdat without moof or size".into()));
                };
                let mdat_offset = bytes.len() - rest.len();
                return Ok(FragmentHead { moof, before_moof, mdat_offset, mdat_size: size });
            }
            Styp::KIND => {
                read_atom::<Styp>(&header, &mut rest, "styp")?;
            }
            _ => skip_box(&header, &mut rest)?,
        }
    }
}

/// What an H.264 sample begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FirstPicture {
    /// The first slice is one of an IDR picture.
    pub is_idr: bool,
    /// A parameter set lies in front of it.
    pub has_parameter_sets: bool,
}

/// Reads the NAL units of a sample up to its first slice.
pub fn read_first_picture(sample: &[u8], length_bytes: u8) -> Result<FirstPicture, MalformedMp4> {
    let mut rest = sample;
    let mut has_parameter_sets = false;
    loop {
        let Some((length, after)) = rest.split_at_checked(usize::from(length_bytes)) else {
            return Err(MalformedMp4("no slice in the first sample".into()));
        };
        let length = length.iter().fold(0_usize, |sum, byte| (sum << 8) | usize::from(*byte));
        match after.first().map(|byte| byte & 0x1f) {
            // Only the type of the slice matters, so its bytes need not all be here.
            Some(1) => return Ok(FirstPicture { is_idr: false, has_parameter_sets }),
            Some(5) => return Ok(FirstPicture { is_idr: true, has_parameter_sets }),
            Some(7 | 8) => has_parameter_sets = true,
            _ => {}
        }
        rest = after
            .get(length..)
            .filter(|_| length > 0)
            .ok_or_else(|| MalformedMp4("NAL unit longer than its sample".into()))?;
    }
}

fn read_next_header(rest: &mut &[u8]) -> Result<Option<Header>, MalformedMp4> {
    if rest.is_empty() {
        return Ok(None);
    }
    match Header::decode_maybe(rest) {
        Ok(Some(header)) => Ok(Some(header)),
        Ok(None) => Err(MalformedMp4("a box header is cut off".into())),
        Err(error) => Err(MalformedMp4::from_mp4_error("box header", &error)),
    }
}

fn read_atom<A: Atom>(header: &Header, rest: &mut &[u8], what: &str) -> Result<A, MalformedMp4> {
    if header.size.is_none_or(|size| size > rest.len()) {
        return Err(MalformedMp4(format!("{what} is cut off")));
    }
    A::decode_atom(header, rest).map_err(|error| MalformedMp4::from_mp4_error(what, &error))
}

fn skip_box(header: &Header, rest: &mut &[u8]) -> Result<(), MalformedMp4> {
    let size = header.size.filter(|size| *size <= rest.len());
    let Some(size) = size else { return Err(MalformedMp4(format!("{} is cut off", header.kind))) };
    rest.advance(size);
    Ok(())
}

fn describe_codec(codec: &Codec) -> Result<(String, Mp4TrackKind), MalformedMp4> {
    match codec {
        Codec::Avc1(avc1) => {
            let config = &avc1.avcc;
            let codecs = format!(
                "avc1.{:02x}{:02x}{:02x}",
                config.avc_profile_indication, config.profile_compatibility, config.avc_level_indication
            );
            let kind = Mp4TrackKind::Video {
                width: u32::from(avc1.visual.width),
                height: u32::from(avc1.visual.height),
                level: u32::from(config.avc_level_indication),
                length_bytes: config.length_size,
                has_parameter_sets: !config.sequence_parameter_sets.is_empty()
                    && !config.picture_parameter_sets.is_empty(),
            };
            Ok((codecs, kind))
        }
        Codec::Mp4a(mp4a) => {
            let config = &mp4a.esds.es_desc.dec_config;
            let object_type = config.dec_specific.as_ref().map_or(0, |specific| specific.profile);
            let kind = Mp4TrackKind::Audio {
                channels: u32::from(mp4a.audio.channel_count),
                sample_rate_hz: u32::from(mp4a.audio.sample_rate.integer()),
            };
            Ok((format!("mp4a.{:02x}.{object_type}", config.object_type_indication), kind))
        }
        other => Err(MalformedMp4(format!("codec is neither avc1 nor mp4a: {:.40}", format!("{other:?}")))),
    }
}

fn read_track_fragment(
    init: &InitSegment,
    moof: &Moof,
    before_moof: usize,
    mdat_offset: usize,
    mdat_size: usize,
) -> Result<Mp4Fragment, MalformedMp4> {
    let [traf] = moof.traf.as_slice() else {
        return Err(MalformedMp4(format!("{} track fragments in one moof", moof.traf.len())));
    };
    if traf.tfhd.track_id != init.track_id {
        return Err(MalformedMp4(format!("track {} instead of {}", traf.tfhd.track_id, init.track_id)));
    }
    let Some(tfdt) = traf.tfdt.as_ref() else { return Err(MalformedMp4("no decode time".into())) };
    let sample_count: usize = traf.trun.iter().map(|trun| trun.samples.len()).sum();
    if sample_count == 0 || sample_count > SAMPLES_MAX {
        return Err(MalformedMp4(format!("{sample_count} samples")));
    }
    let samples = FragmentSamples::from_track_fragment(init, traf);
    let first_offset =
        traf.trun.first().and_then(|trun| trun.data_offset).and_then(|offset| usize::try_from(offset).ok());
    let mdat_size_u64 = u64::try_from(mdat_size).unwrap_or(u64::MAX);
    if samples.size_bytes != mdat_size_u64 {
        return Err(MalformedMp4(format!(
            "samples of {} bytes in an mdat of {mdat_size}",
            samples.size_bytes
        )));
    }
    let first_sample_offset = first_offset.map_or(mdat_offset, |offset| before_moof.saturating_add(offset));
    if first_sample_offset != mdat_offset {
        return Err(MalformedMp4("the first sample does not begin the mdat".into()));
    }
    Ok(Mp4Fragment {
        start_ticks: tfdt.base_media_decode_time,
        duration_ticks: samples.duration_ticks,
        composition_ticks: samples.composition_ticks,
        sample_count,
        sync_ticks: samples.sync_ticks,
        size_bytes: u64::try_from(mdat_offset).unwrap_or(u64::MAX).saturating_add(mdat_size_u64),
        first_sample_offset,
        first_sample_bytes: samples.first_bytes,
    })
}

/// The samples of a fragment; what one does not say of itself the fragment does, or else the init segment (8.8.3, 8.8.7).
fn resolve_samples<'a>(init: &'a InitSegment, traf: &'a Traf) -> impl Iterator<Item = Mp4Sample> + 'a {
    traf.trun.iter().flat_map(|trun| trun.samples.iter()).map(move |entry| {
        let TrunEntry { duration, size, flags, cts } = entry;
        let flags = flags.or(traf.tfhd.default_sample_flags).unwrap_or(init.default_flags);
        Mp4Sample {
            duration_ticks: duration.or(traf.tfhd.default_sample_duration).unwrap_or(init.default_duration),
            size_bytes: size.or(traf.tfhd.default_sample_size).unwrap_or(init.default_size),
            composition_ticks: cts.unwrap_or(0),
            is_sync: flags & NON_SYNC == 0,
        }
    })
}

#[derive(Default)]
struct FragmentSamples {
    duration_ticks: u64,
    composition_ticks: i64,
    size_bytes: u64,
    first_bytes: u32,
    sync_ticks: Vec<u64>,
}

impl FragmentSamples {
    fn from_track_fragment(init: &InitSegment, traf: &Traf) -> Self {
        let mut samples = Self::default();
        for (index, sample) in resolve_samples(init, traf).enumerate() {
            if sample.is_sync {
                samples.sync_ticks.push(samples.duration_ticks);
            }
            if index == 0 {
                samples.first_bytes = sample.size_bytes;
                samples.composition_ticks = sample.composition_ticks;
            }
            samples.duration_ticks = samples.duration_ticks.saturating_add(u64::from(sample.duration_ticks));
            samples.size_bytes = samples.size_bytes.saturating_add(u64::from(sample.size_bytes));
        }
        samples
    }
}

#[cfg(feature = "testing")]
impl InitSegment {
    /// An init segment as a good encode has it.
    pub fn for_test(kind: Mp4TrackKind, timescale: u32, codecs: &str) -> Self {
        Self {
            brands: vec!["cmfc".into()],
            track_id: 1,
            timescale,
            codecs: codecs.to_owned(),
            edit_start_ticks: 0,
            kind,
            default_duration: 0,
            default_size: 0,
            default_flags: 0,
        }
    }
}
