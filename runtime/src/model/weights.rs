//! Named tensors of a model: lookup, shape checks, and conversion to the layouts kernels take.

use super::ModelConfig;
use crate::gguf::{Gguf, Meaning, TensorInfo, TensorView};
use crate::quant::old_i2s::{self, CodeMap, OldI2s};
use crate::quant::panels::{AlignedBytes, Layout, Scales};
use crate::quant::tl::{self, TlConfig};
use crate::quant::{self, I2sError, I2sLayout, i2s};
use crate::tensor::TensorType;
use crate::{Error, Result};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

/// What a file does not say about its packed weights.
#[derive(Clone, Debug, Default)]
pub struct WeightOptions {
    pub i2s_layout: I2sLayout,
    /// Tile sizes of TL1 and TL2, before those that the file's own metadata or the presets have.
    pub tl_config: TlConfig,
    /// What the codes of the older forms of I2_S stand for; without it such tensors are refused.
    pub code_map: Option<CodeMap>,
}

impl WeightOptions {
    /// Tile sizes for the tensors of `gguf`: those given, then the file's own; presets come last.
    ///
    /// # Errors
    /// Tile sizes in the metadata that cannot be read.
    pub fn tiles_of(&self, gguf: &Gguf) -> Result<TlConfig> {
        let own = gguf.opt_str(tl::CONFIG_KEY)?.map(TlConfig::parse).transpose();
        let own = own.map_err(|why| gguf.bad_key(tl::CONFIG_KEY, format!("has {why}")))?;
        Ok(self.tl_config.clone().or(own.unwrap_or_default()))
    }
}

/// A packed matrix [rows, columns]; columns are contiguous.
pub struct Matrix {
    pub name: String,
    pub ty: TensorType,
    pub rows: usize,
    pub columns: usize,
    pub row_bytes: usize,
    /// Scale of the whole tensor (I2_S), else 1.
    pub tensor_scale: f32,
    data: Data,
    panels: Option<Panels>,
}

/// The rows of a matrix in groups of sixteen (see [`crate::quant::panels`]).
pub struct Panels {
    pub layout: Layout,
    pub group_bytes: usize,
    pub bytes: AlignedBytes,
    /// One per row, whole groups; empty where every row has `tensor_scale`.
    pub row_scales: Vec<f32>,
    pub tensor_scale: f32,
}

impl Panels {
    /// The scales of groups `first..first + groups`.
    pub fn scales(&self, first: usize, groups: usize) -> Scales<'_> {
        match self.row_scales.as_chunks::<{ quant::panels::ROWS }>().0 {
            [] => Scales::Tensor(self.tensor_scale),
            scales => Scales::Rows(scales[first..first + groups].as_flattened()),
        }
    }
}

enum Data {
    /// The first so many bytes of a tensor in the file, by its number there.
    File {
        gguf: Arc<Gguf>,
        tensor: usize,
        len: usize,
    },
    Converted(Vec<u8>),
}

impl Matrix {
    /// The packed rows, without a trailer.
    pub fn bytes(&self) -> &[u8] {
        match &self.data {
            Data::File { gguf, tensor, len } => &gguf.data(&gguf.tensors()[*tensor])[..*len],
            Data::Converted(bytes) => bytes,
        }
    }

    /// As [`Self::bytes`], of some rows.
    #[cfg(feature = "gpu")]
    pub(crate) fn bytes_of(&self, rows: Range<usize>) -> &[u8] {
        &self.bytes()[rows.start * self.row_bytes..rows.end * self.row_bytes]
    }

    /// A matrix of rows packed elsewhere.
    #[cfg(any(test, feature = "cuda"))]
    pub(crate) fn of_bytes(name: &str, ty: TensorType, rows: usize, columns: usize, bytes: Vec<u8>) -> Self {
        let row_bytes = ty.row_bytes(columns as u64).expect("whole blocks") as usize;
        assert_eq!(bytes.len(), rows * row_bytes);
        let (name, data) = (name.to_owned(), Data::Converted(bytes));
        Matrix { name, ty, rows, columns, row_bytes, tensor_scale: 1.0, data, panels: None }
    }

    /// The repacked rows, where there are any.
    pub fn panels(&self) -> Option<&Panels> {
        self.panels.as_ref()
    }

    /// Bytes that a product goes through.
    pub fn bytes_in_use(&self) -> usize {
        self.panels.as_ref().map_or(self.rows * self.row_bytes, |panels| panels.bytes.len())
    }

    /// Takes repacked rows; pages of the file that held the rows are given back.
    pub(crate) fn set_panels(&mut self, panels: Panels) {
        self.panels = Some(panels);
        if let Data::File { gguf, tensor, .. } = &self.data {
            gguf.forget(gguf.data(&gguf.tensors()[*tensor]));
        }
    }

    /// Takes the pages of rows that will seldom be read out of memory; they come back when they are.
    pub(crate) fn release_rows(&self, rows: Range<usize>) {
        if let Data::File { gguf, tensor, .. } = &self.data {
            let rows = rows.start * self.row_bytes..rows.end * self.row_bytes;
            gguf.forget(&gguf.data(&gguf.tensors()[*tensor])[rows]);
        }
    }

    /// Frees a converted copy of the rows, which nothing reads once they are repacked.
    pub(crate) fn drop_converted(&mut self) {
        if let (Data::Converted(bytes), Some(_)) = (&mut self.data, &self.panels) {
            *bytes = Vec::new();
        }
    }

    /// Replaces the packed rows by what `change` makes of a copy.
    #[cfg(feature = "planted-bugs")]
    pub(crate) fn change_bytes(&mut self, change: impl FnOnce(&mut [u8])) {
        let mut bytes = self.bytes().to_vec();
        change(&mut bytes);
        self.data = Data::Converted(bytes);
    }

    /// Writes row `index` as f32 into `out` `[columns]`.
    pub fn dequantize_row(&self, index: usize, out: &mut [f32]) {
        let row = &self.bytes()[index * self.row_bytes..][..self.row_bytes];
        quant::dequantize_row(self.ty, row, self.tensor_scale, out)
            .expect("codes were checked when the model was loaded");
    }
}

/// A matrix with the optional separate `.scale` that some `bitnet` files carry.
pub struct Linear {
    pub matrix: Matrix,
    pub scale: Option<f32>,
}

/// One transformer block. Shapes are [out, in].
pub struct Layer {
    pub attn_norm: Vec<f32>,
    pub q: Linear,
    pub k: Linear,
    pub v: Linear,
    /// `[head_dim]`: of every head of the queries, and of the keys.
    pub q_norm: Option<Vec<f32>>,
    pub k_norm: Option<Vec<f32>>,
    pub attn_sub_norm: Option<Vec<f32>>,
    pub o: Linear,
    pub ffn_norm: Vec<f32>,
    pub gate: Linear,
    pub up: Linear,
    pub ffn_sub_norm: Option<Vec<f32>>,
    pub down: Linear,
}

impl Layer {
    /// The seven matrices, in the order of evaluation.
    pub fn linears(&self) -> [&Linear; 7] {
        [&self.q, &self.k, &self.v, &self.o, &self.gate, &self.up, &self.down]
    }

    pub(crate) fn linears_mut(&mut self) -> [&mut Linear; 7] {
        [&mut self.q, &mut self.k, &mut self.v, &mut self.o, &mut self.gate, &mut self.up, &mut self.down]
    }

    pub(super) fn read(reader: &mut Reader<'_>, config: &ModelConfig, index: usize) -> Result<Self> {
        let name = |suffix: &str| format!("blk.{index}.{suffix}");
        let (hidden, ffn, query) = (config.hidden, config.feed_forward, config.query_dim());
        let sub_norms = config.architecture.has_sub_norms();
        let head_norms = config.architecture.has_head_norms();
        let mut norm = |suffix: &str, len: usize, is_there: bool| {
            is_there.then(|| reader.vector(&name(suffix), len)).transpose()
        };
        let (q_norm, k_norm) = (
            norm("attn_q_norm.weight", config.head_dim, head_norms)?,
            norm("attn_k_norm.weight", config.head_dim, head_norms)?,
        );
        let (attn_sub_norm, ffn_sub_norm) =
            (norm("attn_sub_norm.weight", query, sub_norms)?, norm("ffn_sub_norm.weight", ffn, sub_norms)?);
        Ok(Layer {
            attn_norm: reader.vector(&name("attn_norm.weight"), hidden)?,
            q: reader.linear(&name("attn_q"), query, hidden)?,
            k: reader.linear(&name("attn_k"), config.kv_dim(), hidden)?,
            v: reader.linear(&name("attn_v"), config.kv_dim(), hidden)?,
            q_norm,
            k_norm,
            attn_sub_norm,
            o: reader.linear(&name("attn_output"), hidden, query)?,
            ffn_norm: reader.vector(&name("ffn_norm.weight"), hidden)?,
            gate: reader.linear(&name("ffn_gate"), ffn, hidden)?,
            up: reader.linear(&name("ffn_up"), ffn, hidden)?,
            ffn_sub_norm,
            down: reader.linear(&name("ffn_down"), hidden, ffn)?,
        })
    }
}

/// Takes tensors out of a file by name and remembers which were taken.
pub(super) struct Reader<'a> {
    gguf: &'a Arc<Gguf>,
    layout: I2sLayout,
    tl_config: TlConfig,
    code_map: Option<CodeMap>,
    unread: BTreeSet<String>,
}

impl<'a> Reader<'a> {
    /// # Errors
    /// Tile sizes in the metadata that cannot be read.
    pub(super) fn new(gguf: &'a Arc<Gguf>, options: &WeightOptions) -> Result<Self> {
        let unread = gguf.tensors().iter().map(|tensor| tensor.name.clone()).collect();
        let tl_config = options.tiles_of(gguf)?;
        Ok(Reader { gguf, layout: options.i2s_layout, tl_config, code_map: options.code_map, unread })
    }

    /// Names of tensors that nothing has asked for.
    pub(super) fn unread(self) -> Vec<String> {
        self.unread.into_iter().collect()
    }

    /// The token embedding [vocab, hidden]: the one matrix whose row count the file decides.
    pub(super) fn embedding(&mut self, hidden: usize) -> Result<Matrix> {
        let name = "token_embd.weight";
        let rows = self.gguf.tensor(name)?.dims.get(1).copied().unwrap_or(1);
        self.matrix(name, usize::try_from(rows).unwrap_or(usize::MAX), hidden)
    }

    pub(super) fn linear(&mut self, name: &str, rows: usize, columns: usize) -> Result<Linear> {
        let matrix = self.matrix(&format!("{name}.weight"), rows, columns)?;
        let scale = self.optional_vector(&format!("{name}.scale"), 1)?.map(|scale| scale[0]);
        Ok(Linear { matrix, scale })
    }

    pub(super) fn optional_matrix(
        &mut self,
        name: &str,
        rows: usize,
        columns: usize,
    ) -> Result<Option<Matrix>> {
        if self.unread.contains(name) { self.matrix(name, rows, columns).map(Some) } else { Ok(None) }
    }

    pub(super) fn optional_vector(&mut self, name: &str, len: usize) -> Result<Option<Vec<f32>>> {
        if self.unread.contains(name) { self.vector(name, len).map(Some) } else { Ok(None) }
    }

    /// A one-dimensional tensor as f32.
    pub(super) fn vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>> {
        let view = self.take(name, &[len])?;
        if !matches!(view.ty, TensorType::F32 | TensorType::F16 | TensorType::BF16) {
            let what = format!("tensor '{name}' has type {}", view.ty);
            return Err(Error::malformed(view.path, view.offset, what, "vectors must be F32, F16 or BF16"));
        }
        let mut values = vec![0.0; len];
        quant::dequantize_row(view.ty, view.bytes, 1.0, &mut values)
            .expect("float types have no invalid codes");
        if let Some(index) = values.iter().position(|value| !value.is_finite()) {
            let what = format!("element {index} of tensor '{name}' is {}", values[index]);
            return Err(Error::malformed(view.path, view.offset, what, "fetch or convert the model again"));
        }
        Ok(values)
    }

    fn matrix(&mut self, name: &str, rows: usize, columns: usize) -> Result<Matrix> {
        if let (Some(info), Some(map)) = (self.gguf.info(name), self.code_map)
            && let Meaning::OldI2s(form) = info.meaning
        {
            return self.mapped(info, form, &map, rows, columns);
        }
        let view = self.take(name, &[columns, rows])?;
        if view.ty.is_tiled() {
            return self.untiled(&view, rows, columns);
        }
        let ty = view.ty;
        let row_bytes = ty.row_bytes(columns as u64).map_or(0, |bytes| bytes as usize);
        let tensor =
            self.gguf.tensors().iter().position(|info| info.name == name).expect("it was just taken");
        let mut data = Data::File { gguf: Arc::clone(self.gguf), tensor, len: rows * row_bytes };
        let mut tensor_scale = 1.0;
        if ty == TensorType::I2S {
            tensor_scale = self.tensor_scale(&view)?;
            if self.layout == I2sLayout::X86 {
                i2s::validate(&view.bytes[..rows * row_bytes])
                    .map_err(|code| self.invalid(&view, code.into()))?;
                self.gguf.forget(&view.bytes[..rows * row_bytes]);
            } else {
                let mut bytes = quant::i2s_to_x86(view.bytes, self.layout, columns)
                    .map_err(|e| self.invalid(&view, e))?;
                bytes.truncate(rows * row_bytes);
                data = Data::Converted(bytes);
            }
        }
        Ok(Matrix { name: name.to_owned(), ty, rows, columns, row_bytes, tensor_scale, data, panels: None })
    }

    /// A tiled tensor as the same codes and scale in rows: I2_S, or Q2_0 with blocks of scale 1 where rows are no whole
    /// groups of I2_S (the 8640 columns of the 3.3B model). Both multiply exact integers by the tensor's scale, so the
    /// results are the same; a kernel that wants ternary codes in an order of its own finds them in these two.
    fn untiled(&self, view: &TensorView<'_>, rows: usize, columns: usize) -> Result<Matrix> {
        let (ty, name) = (view.ty, view.name);
        let tile = self.tl_config.find(ty, rows, columns).ok_or_else(|| {
            let what = format!("tensor '{name}' of type {ty} has {rows} rows of {columns}, whose tile sizes are not known (at byte offset {})", view.offset);
            let remedy = format!("give the kernel_config.ini that the file was made with, or the sizes: --tl-config {rows}x{columns}:BM,BK,BMM");
            Error::unsupported(view.path, what, remedy)
        })?;
        let codes = tl::unpack(ty, view.bytes, &tile).map_err(|error| {
            let byte = if let tl::TlError::InvalidNibble { byte } = error { byte } else { 0 };
            let (what, remedy) =
                (format!("tensor '{name}': {error}"), "check --tl-config, or convert the model again");
            Error::malformed(view.path, view.offset + byte as u64, what, remedy)
        })?;
        let packed_as =
            [TensorType::I2S, TensorType::Q2_0].into_iter().find(|ty| ty.row_bytes(columns as u64).is_some());
        let packed_as = packed_as.ok_or_else(|| {
            self.gguf.bad_tensor(name, format!("has rows of {columns}, not a multiple of 64"))
        })?;
        let mut bytes = Vec::with_capacity(codes.len() / 3);
        quant::pack_ternary(packed_as, &codes, 1.0, &mut bytes);
        Ok(Matrix {
            name: name.to_owned(),
            ty: packed_as,
            rows,
            columns,
            row_bytes: bytes.len() / rows,
            tensor_scale: self.tensor_scale(view)?,
            data: Data::Converted(bytes),
            panels: None,
        })
    }

    /// A tensor in an older form of I2_S, as what [`old_i2s::convert`] makes of it.
    fn mapped(
        &mut self,
        info: &TensorInfo,
        form: OldI2s,
        map: &CodeMap,
        rows: usize,
        columns: usize,
    ) -> Result<Matrix> {
        self.unread.remove(&info.name);
        if info.dims != [columns as u64, rows as u64] {
            let what = format!("has shape {:?} where the metadata asks for [{columns}, {rows}]", info.dims);
            return Err(self.gguf.bad_tensor(&info.name, what));
        }
        let converted = old_i2s::convert(form, self.gguf.data(info), map);
        let (ty, bytes) = converted.map_err(|byte| {
            self.gguf
                .bad_tensor(&info.name, format!("has a code in byte {byte} that --code-map gives no value"))
        })?;
        let (name, row_bytes) = (info.name.clone(), bytes.len() / rows);
        Ok(Matrix {
            name,
            ty,
            rows,
            columns,
            row_bytes,
            tensor_scale: 1.0,
            data: Data::Converted(bytes),
            panels: None,
        })
    }

    /// The scale in the trailer.
    fn tensor_scale(&self, view: &TensorView<'_>) -> Result<f32> {
        let scale = i2s::scale(view.bytes);
        if scale.is_finite() {
            Ok(scale)
        } else {
            Err(self.gguf.bad_tensor(view.name, format!("has the scale {scale}")))
        }
    }

    fn invalid(&self, view: &TensorView<'_>, error: I2sError) -> Error {
        let byte = if let I2sError::InvalidCode(code) = error { code.byte } else { 0 };
        let what = format!("tensor '{}': {error}", view.name);
        Error::malformed(
            view.path,
            view.offset + byte as u64,
            what,
            "fetch or convert the model again, or check --i2s-layout",
        )
    }

    /// The tensor `name`, which must have exactly these dimensions (dimension 0 first).
    fn take(&mut self, name: &str, dims: &[usize]) -> Result<TensorView<'a>> {
        let view = self.gguf.tensor(name)?;
        self.unread.remove(name);
        let same =
            view.dims.iter().map(|dim| usize::try_from(*dim).ok()).eq(dims.iter().map(|dim| Some(*dim)));
        if !same {
            let what =
                format!("tensor '{name}' has shape {:?} where the metadata asks for {dims:?}", view.dims);
            return Err(Error::malformed(
                view.path,
                view.offset,
                what,
                "the file is inconsistent: convert the model again",
            ));
        }
        Ok(view)
    }
}
