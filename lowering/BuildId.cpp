#include "bitloom/lowering/BuildId.h"

#include "bitloom/lib/support/Sha256.h"

#include "llvm/Config/llvm-config.h"

#include <cstring>
#include <dlfcn.h>
#include <link.h>
#include <sys/stat.h>

namespace bitloom {

namespace {
struct Search {
  uintptr_t address; // in the file that is looked for
  std::string note;
};
} // namespace

static size_t padded(size_t bytes) { return (bytes + 3) & ~size_t(3); }

static int readBuildId(dl_phdr_info *info, size_t, void *data) {
  auto &search = *static_cast<Search *>(data);
  bool here = false;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const ElfW(Phdr) &segment = info->dlpi_phdr[i];
    uintptr_t begin = info->dlpi_addr + segment.p_vaddr;
    here |= segment.p_type == PT_LOAD && search.address >= begin && search.address < begin + segment.p_memsz;
  }
  if (!here)
    return 0;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const ElfW(Phdr) &segment = info->dlpi_phdr[i];
    if (segment.p_type != PT_NOTE)
      continue;
    auto *at = reinterpret_cast<const char *>(info->dlpi_addr + segment.p_vaddr), *end = at + segment.p_memsz;
    while (at + sizeof(ElfW(Nhdr)) <= end) {
      ElfW(Nhdr) note;
      std::memcpy(&note, at, sizeof note);
      const char *name = at + sizeof note, *content = name + padded(note.n_namesz);
      if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4 && !std::memcmp(name, "GNU", 4))
        search.note.assign(content, note.n_descsz);
      at = content + padded(note.n_descsz);
    }
  }
  return 1;
}

std::string buildIdOf(const void *address) {
  Search search{reinterpret_cast<uintptr_t>(address), ""};
  dl_iterate_phdr(readBuildId, &search);
  if (!search.note.empty())
    return search.note;
  Dl_info file{};
  struct stat facts{};
  if (!dladdr(address, &file) || stat(file.dli_fname, &facts) != 0)
    return "";
  return std::to_string(facts.st_size) + " " + std::to_string(facts.st_mtim.tv_sec) + " " +
         std::to_string(facts.st_mtim.tv_nsec);
}

const std::string &compilerBuildId() {
  static const std::string id =
      "llvm " LLVM_VERSION_STRING " " + buildIdOf(reinterpret_cast<const void *>(&compilerBuildId));
  return id;
}

} // namespace bitloom
