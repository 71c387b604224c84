//! What the type ids of a file mean: some ids are used differently by two projects, or by one at two times.
//!
//! In: tensor infos as they are read, the architecture, `general.file_type`, and the room between tensors. Out: a
//! [`Meaning`] per tensor, the same for all tensors of an id. A meaning must fit the room of every such tensor
//! exactly; where several do, file type and architecture decide; where they do not, the file is refused with the
//! candidates' names. Where none fits, the first is taken and the checks of sizes say what is wrong.
//!
//! | id | meanings |
//! |---|---|
//! | 36 | I2_S (bitnet.cpp), BitNet32-F16 and QK256 (older roadmaps), IQ4_NL_4_4 (llama.cpp, 2024) |
//! | 37 | I8_S (bitnet.cpp), IQ4_NL_4_8 (llama.cpp, 2024) |
//! | 38 | TL1 (bitnet.cpp), IQ4_NL_8_8 (llama.cpp, 2024) |
//! | 39 | TL2 (bitnet.cpp), MXFP4 (llama.cpp) |
//! | 42 | Q2_0 in groups of 64 (llama.cpp), in groups of 128 (before) |

use super::parse::TensorInfo;
use crate::quant::old_i2s::OldI2s;
use crate::tensor::{TensorType, foreign_type_name};

/// What a tensor's type id means in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    Readable(TensorType),
    /// Read only with a code map, see [`crate::quant::old_i2s`].
    OldI2s(OldI2s),
    /// Known by this name, and not read.
    Foreign(&'static str),
    Unknown,
}

impl Meaning {
    pub const fn name(self) -> Option<&'static str> {
        match self {
            Meaning::Readable(ty) => Some(ty.name()),
            Meaning::OldI2s(flavour) => Some(flavour.name()),
            Meaning::Foreign(name) => Some(name),
            Meaning::Unknown => None,
        }
    }

    /// Bytes of a tensor, `None` for shapes that the type cannot have and where the size is not known.
    pub(super) fn bytes(self, dims: &[u64]) -> Option<u64> {
        let blocks = |weights: u64, bytes: u64| {
            let elements = dims.iter().try_fold(1u64, |n, dim| n.checked_mul(*dim))?;
            (elements / weights).checked_mul(bytes).filter(|_| dims[0].is_multiple_of(weights))
        };
        match self {
            Meaning::Readable(ty) => ty.tensor_bytes(dims),
            Meaning::OldI2s(flavour) => {
                let (weights, bytes) = flavour.block();
                blocks(weights as u64, bytes as u64)
            }
            Meaning::Foreign("MXFP4") => blocks(32, 17),
            Meaning::Foreign("I8_S") => blocks(1, 1),
            Meaning::Foreign(Q2_0_128) => blocks(128, 34),
            Meaning::Foreign(IQ4_NL_4_4 | IQ4_NL_4_8 | IQ4_NL_8_8) => blocks(32, 18),
            Meaning::Foreign(_) | Meaning::Unknown => None,
        }
    }

    /// The value of `general.file_type` that tells it.
    fn file_type(self) -> Option<u32> {
        match self {
            Meaning::Readable(ty) => Some(ty.file_type()),
            Meaning::Foreign("MXFP4") => Some(38),
            _ => None,
        }
    }

    /// Whose architectures it goes with; `None` where they say nothing.
    fn origin(self) -> Option<Origin> {
        match self {
            Meaning::Readable(TensorType::I2S | TensorType::TL1 | TensorType::TL2)
            | Meaning::Foreign("I8_S") => Some(Origin::BitnetCpp),
            Meaning::Foreign("MXFP4" | IQ4_NL_4_4 | IQ4_NL_4_8 | IQ4_NL_8_8) => Some(Origin::LlamaCpp),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    LlamaCpp,
    BitnetCpp,
}

const Q2_0_128: &str = "Q2_0 in groups of 128, as it was before they had 64";
const IQ4_NL_4_4: &str = "IQ4_NL_4_4";
const IQ4_NL_4_8: &str = "IQ4_NL_4_8";
const IQ4_NL_8_8: &str = "IQ4_NL_8_8";

/// What `id` may mean, the likeliest first.
fn candidates(id: u32) -> Vec<Meaning> {
    use Meaning::{Foreign, OldI2s as Old, Readable};
    match id {
        36 => vec![Readable(TensorType::I2S), Old(OldI2s::Block32), Old(OldI2s::Qk256), Foreign(IQ4_NL_4_4)],
        37 => vec![Foreign("I8_S"), Foreign(IQ4_NL_4_8)],
        38 => vec![Readable(TensorType::TL1), Foreign(IQ4_NL_8_8)],
        39 => vec![Readable(TensorType::TL2), Foreign("MXFP4")],
        42 => vec![Readable(TensorType::Q2_0), Foreign(Q2_0_128)],
        _ => vec![match (TensorType::from_id(id), foreign_type_name(id)) {
            (Some(ty), _) => Readable(ty),
            (None, Some(name)) => Foreign(name),
            (None, None) => Meaning::Unknown,
        }],
    }
}

/// What else a file says about itself.
pub(super) struct Context<'a> {
    pub(super) architecture: Option<&'a str>,
    pub(super) file_type: Option<u32>,
    pub(super) alignment: u64,
    /// Bytes after the start of the data section.
    pub(super) data_len: u64,
}

/// Several meanings fit all tensors of a type id, and nothing decides between them.
pub(super) struct Ambiguous {
    pub(super) id: u32,
    /// Index of the first tensor of that id.
    pub(super) tensor: usize,
    pub(super) names: String,
}

/// Sets the meaning of every tensor; offsets are relative to the data section.
pub(super) fn resolve(context: &Context<'_>, tensors: &mut [TensorInfo]) -> Result<(), Ambiguous> {
    let mut starts: Vec<u64> = tensors.iter().map(|tensor| tensor.offset).collect();
    starts.sort_unstable();
    let fits = |meaning: Meaning, tensor: &TensorInfo| {
        let next = starts.partition_point(|start| *start <= tensor.offset);
        let end = starts.get(next).copied().unwrap_or(context.data_len);
        let (Some(room), Some(bytes)) = (end.checked_sub(tensor.offset), meaning.bytes(&tensor.dims)) else {
            return false;
        };
        // The file may end without the padding of its last tensor.
        bytes <= room
            && bytes.checked_next_multiple_of(context.alignment).is_some_and(|padded| room <= padded)
    };
    let mut ids: Vec<u32> = tensors.iter().map(|tensor| tensor.type_id).collect();
    ids.sort_unstable();
    ids.dedup();
    for id in ids {
        let candidates = candidates(id);
        let of_id = || tensors.iter().filter(|tensor| tensor.type_id == id);
        let exact: Vec<Meaning> = candidates
            .iter()
            .copied()
            .filter(|meaning| of_id().all(|tensor| fits(*meaning, tensor)))
            .collect();
        let meaning = match exact.as_slice() {
            _ if candidates.len() == 1 => candidates[0],
            [] => preferred(context, &candidates).unwrap_or(candidates[0]),
            [one] => *one,
            several => preferred(context, several).ok_or_else(|| Ambiguous {
                id,
                tensor: tensors.iter().position(|tensor| tensor.type_id == id).unwrap_or(0),
                names: several.iter().filter_map(|meaning| meaning.name()).collect::<Vec<_>>().join(" or "),
            })?,
        };
        tensors.iter_mut().filter(|tensor| tensor.type_id == id).for_each(|tensor| tensor.meaning = meaning);
    }
    Ok(())
}

/// The meaning that file type, else architecture, speaks for alone.
fn preferred(context: &Context<'_>, meanings: &[Meaning]) -> Option<Meaning> {
    let only = |speaks: &dyn Fn(Meaning) -> bool| {
        let mut speaking = meanings.iter().copied().filter(|meaning| speaks(*meaning));
        speaking.next().filter(|_| speaking.next().is_none())
    };
    let origin = context
        .architecture
        .map(|name| if name.starts_with("bitnet") { Origin::BitnetCpp } else { Origin::LlamaCpp });
    only(&|meaning| context.file_type.is_some() && meaning.file_type() == context.file_type)
        .or_else(|| only(&|meaning| origin.is_some() && meaning.origin() == origin))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(type_id: u32, dims: &[u64], offset: u64) -> TensorInfo {
        TensorInfo {
            name: "t".into(),
            type_id,
            meaning: Meaning::Unknown,
            dims: dims.into(),
            part: 0,
            offset,
            len: None,
            info_offset: 0,
        }
    }

    fn resolved(
        architecture: &str,
        file_type: Option<u32>,
        data_len: u64,
        mut tensors: Vec<TensorInfo>,
    ) -> Result<&'static str, String> {
        let context = Context { architecture: Some(architecture), file_type, alignment: 32, data_len };
        resolve(&context, &mut tensors)
            .map_err(|ambiguous| format!("{}: {}", ambiguous.id, ambiguous.names))?;
        Ok(tensors[0].meaning.name().unwrap())
    }

    #[test]
    fn sizes_tell_ids_apart_whatever_the_file_calls_itself() {
        for architecture in ["bitnet", "gpt-oss"] {
            let one =
                |id, dims: &[u64], len| resolved(architecture, None, len, vec![info(id, dims, 0)]).unwrap();
            let tl2 = TensorType::TL2.tensor_bytes(&[512, 32]).unwrap();
            assert_eq!(one(39, &[512, 32], tl2), "TL2");
            assert_eq!(one(39, &[512, 32], 512 * 32 / 32 * 17), "MXFP4");
            assert_eq!(one(42, &[256, 16], 256 * 16 / 64 * 18), "Q2_0");
            assert!(one(42, &[256, 16], 256 * 16 / 128 * 34).contains("groups of 128"));
            assert_eq!(one(36, &[256, 8], 256 * 8 / 4 + 32), "I2_S");
            assert_eq!(one(36, &[256, 8], 256 * 8 / 4), "QK256");
            assert_eq!(one(36, &[256, 8], 256 * 8 / 32 * 10), "BitNet32-F16");
            assert_eq!(one(36, &[256, 8], 256 * 8 / 32 * 18), "IQ4_NL_4_4");
            assert_eq!(one(38, &[256, 8], 256 * 8 / 4 + 32), "TL1");
            assert_eq!(one(37, &[256, 8], 256 * 8), "I8_S");
            assert_eq!(one(37, &[256, 8], 256 * 8 / 32 * 18), "IQ4_NL_4_8");
            assert_eq!(one(38, &[256, 8], 256 * 8 / 32 * 18), "IQ4_NL_8_8");
        }
    }

    #[test]
    fn all_tensors_of_an_id_decide_together() {
        // 512 weights take 160 bytes both as I2_S and as BitNet32-F16; 1024 take 288 or 320.
        let small = || info(36, &[512], 0);
        assert_eq!(resolved("llama", None, 160, vec![small()]), Err("36: I2_S or BitNet32-F16".into()));
        let q2_0 = || vec![info(42, &[256, 4], 0)];
        assert!(
            resolved("llama", None, 288, q2_0())
                .unwrap_err()
                .starts_with("42: Q2_0 or Q2_0 in groups of 128")
        );
        assert_eq!(resolved("bitnet", Some(41), 288, q2_0()), Ok("Q2_0"));
        assert_eq!(resolved("llama", Some(40), 160, vec![small()]), Ok("I2_S"));
        assert_eq!(resolved("bitnet", None, 160, vec![small()]), Ok("I2_S"));
        assert_eq!(
            resolved("llama", None, 160 + 320, vec![small(), info(36, &[1024], 160)]),
            Ok("BitNet32-F16")
        );
        assert_eq!(resolved("llama", None, 160 + 288, vec![small(), info(36, &[1024], 160)]), Ok("I2_S"));
    }

    #[test]
    fn where_no_size_fits_the_file_type_and_architecture_decide() {
        let odd =
            |architecture, file_type| resolved(architecture, file_type, 7, vec![info(39, &[512, 32], 0)]);
        assert_eq!(odd("bitnet", None), Ok("TL2"));
        assert_eq!(odd("gpt-oss", None), Ok("MXFP4"));
        assert_eq!(odd("gpt-oss", Some(38)), Ok("MXFP4"));
        assert_eq!(odd("bitnet", Some(39)), Ok("TL2"));
        assert_eq!(odd("bitnet", Some(38)), Ok("MXFP4"));
    }
}
