//! PE images, 32 and 64 bit: DLLs and executables.
//!
//! In: the bytes of one file. Out: a filled `Library`. Exports come from the export directory, imports from
//! the import and delay-import directories. Deliberately absent: resources, exception tables, signatures.
//! Layout: Microsoft's "PE Format".

use super::{coff, letters};
use crate::symbols::model::{Budget, Format, Library, Symbol, text};
use object::read::Object;
use object::read::pe::{ExportTable, ImageNtHeaders, ImageOptionalHeader, ImageThunkData, Import, PeFile};
use object::{LittleEndian as LE, pe};
use std::borrow::Cow;

/// Reads the PE image `data`, found at `path`.
pub(crate) fn read<'d, Pe: ImageNtHeaders>(path: &str, data: &'d [u8]) -> Result<Library<'d>, String> {
    let file = PeFile::<'d, Pe>::parse(data).map_err(|error| error.to_string())?;
    let header = file.nt_headers().file_header();
    let flags = header.characteristics.get(LE);
    let kind = if flags.contains(pe::IMAGE_FILE_DLL) { "shared" } else { "executable" };
    let mut image = Image {
        file,
        budget: Budget::for_image(data.len()),
        library: Library::new(path, Format::Pe, kind, data.len()),
    };
    (image.library.machine, image.library.bits) = coff::machine(header.machine.get(LE).0);
    image.read_sections()?;
    image.read_hardening(data);
    if let Ok(Some(info)) = image.file.pdb_info() {
        // The form symbol servers use: the GUID's fields in their own byte order, then the age.
        let id = info.guid();
        let bytes = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15].map(|at| id[at]);
        image.library.build_id = Some(format!("{}-{:x}", super::hex(&bytes), info.age()));
    }
    image.read_exports()?;
    image.read_imports()?;
    Ok(image.library)
}

struct Image<'d, Pe: ImageNtHeaders> {
    file: PeFile<'d, Pe>,
    budget: Budget,
    library: Library<'d>,
}

fn fail(error: object::Error) -> String {
    error.to_string()
}

impl<'d, Pe: ImageNtHeaders> Image<'d, Pe> {
    fn read_sections(&mut self) -> Result<(), String> {
        for section in self.file.section_table().iter() {
            let name = section.raw_name().to_vec();
            self.budget.spend(name.len() + 8)?;
            self.library.sections.push((Cow::Owned(name), section.virtual_size.get(LE).into()));
        }
        Ok(())
    }

    fn read_hardening(&mut self, data: &'d [u8]) {
        let optional = self.file.nt_headers().optional_header();
        let flags = optional.dll_characteristics();
        self.library.hardening.nx = Some(flags.contains(pe::IMAGE_DLLCHARACTERISTICS_NX_COMPAT));
        self.library.hardening.pie = Some(flags.contains(pe::IMAGE_DLLCHARACTERISTICS_DYNAMIC_BASE));
        // The field SecurityCookie of the load configuration: the address of the canary MSVC code checks.
        let sections = self.file.section_table();
        let config = self
            .file
            .data_directory(pe::IMAGE_DIRECTORY_ENTRY_LOAD_CONFIG)
            .and_then(|directory| directory.data(data, &sections).ok());
        let cookie = match self.library.bits {
            64 => config.and_then(|config| config.get(88..96)),
            _ => config.and_then(|config| config.get(60..64)),
        };
        self.library.hardening.stack_protector = cookie.map(|bytes| bytes.iter().any(|byte| *byte != 0));
    }

    fn read_exports(&mut self) -> Result<(), String> {
        let Some(table) = self.file.export_table().map_err(fail)? else { return Ok(()) };
        let name = table.name_from_pointer(table.directory().name.get(LE)).map_err(fail)?;
        self.budget.spend(name.len() + 8)?;
        self.library.name = Some(text(name).into_owned());
        self.budget.steps(table.name_pointers().len())?;
        for (pointer, index) in table.name_iter() {
            let name = table.name_from_pointer(pointer).map_err(fail)?;
            self.budget.spend(name.len() + 8)?;
            let address = table.address_by_index(index).map_err(fail)?;
            let letter = self.letter(&table, address);
            self.library.exports.push(Symbol {
                name: Cow::Borrowed(name),
                address: address.into(),
                size: 0,
                version: 0,
                library: 0,
                letter,
                default_version: false,
            });
        }
        Ok(())
    }

    /// A forwarder points back into the export directory; anything else lies in a section.
    fn letter(&self, table: &ExportTable<'d>, address: u32) -> u8 {
        if table.is_forward(address) {
            return b'I';
        }
        self.file.section_table().section_containing(address).map_or(b'A', |section| {
            let flags = section.characteristics.get(LE);
            letters::section(
                section.raw_name(),
                letters::Flags {
                    code: flags.contains(pe::IMAGE_SCN_MEM_EXECUTE),
                    allocated: true,
                    writable: flags.contains(pe::IMAGE_SCN_MEM_WRITE),
                    contents: !flags.contains(pe::IMAGE_SCN_CNT_UNINITIALIZED_DATA),
                },
            )
        })
    }

    fn read_imports(&mut self) -> Result<(), String> {
        if let Some(table) = self.file.import_table().map_err(fail)? {
            let mut descriptors = table.descriptors().map_err(fail)?;
            while let Some(descriptor) = descriptors.next().map_err(fail)? {
                self.start_library(table.name(descriptor.name.get(LE)).map_err(fail)?)?;
                let lookup = match descriptor.original_first_thunk.get(LE) {
                    0 => descriptor.first_thunk.get(LE),
                    lookup => lookup,
                };
                let mut thunks = table.thunks(lookup).map_err(fail)?;
                while let Some(thunk) = thunks.next::<Pe>().map_err(fail)? {
                    self.add_import(&thunk, |thunk| table.import::<Pe>(thunk))?;
                }
            }
        }
        if let Some(table) = self.file.delay_load_import_table().map_err(fail)? {
            let mut descriptors = table.descriptors().map_err(fail)?;
            while let Some(descriptor) = descriptors.next().map_err(fail)? {
                self.start_library(table.name(descriptor.dll_name_rva.get(LE)).map_err(fail)?)?;
                let mut thunks = table.thunks(descriptor.import_name_table_rva.get(LE)).map_err(fail)?;
                while let Some(thunk) = thunks.next::<Pe>().map_err(fail)? {
                    self.add_import(&thunk, |thunk| table.import::<Pe>(thunk))?;
                }
            }
        }
        Ok(())
    }

    fn start_library(&mut self, name: &[u8]) -> Result<(), String> {
        self.budget.spend(name.len() + 8)?;
        self.library.needed.push(text(name).into_owned());
        if self.library.needed.len() >= usize::from(u16::MAX) {
            return Err(format!("the import directory names {} libraries", self.library.needed.len()));
        }
        Ok(())
    }

    fn add_import(
        &mut self,
        thunk: &Pe::ImageThunkData,
        name: impl Fn(Pe::ImageThunkData) -> object::Result<Import<'d>>,
    ) -> Result<(), String> {
        self.budget.steps(2)?;
        let name = if thunk.is_ordinal() {
            Cow::Owned(format!("#{}", thunk.ordinal()).into_bytes())
        } else {
            match name(*thunk).map_err(fail)? {
                Import::Name(_, name) => Cow::Borrowed(name),
                Import::Ordinal(ordinal) => Cow::Owned(format!("#{ordinal}").into_bytes()),
            }
        };
        self.budget.spend(name.len())?;
        // Bounded by start_library.
        let library = self.library.needed.len() as u16;
        self.library.imports.push(Symbol {
            name,
            address: 0,
            size: 0,
            version: 0,
            library,
            letter: b'U',
            default_version: false,
        });
        Ok(())
    }
}
