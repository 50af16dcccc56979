// All custom operators of the process: a registry that only grows, guarded by a lock.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "custom/definition.h"

namespace tessera::custom {

// Whether a name is that of a custom operator: "library::name".
inline bool is_custom(std::string_view op) { return op.find("::") != std::string_view::npos; }

// Definitions stay valid for the life of the process. Null when there is none.
const Definition *find(std::string_view name);
// NameMissingError, saying what to load, when there is none.
const Definition &get(std::string_view name);
// By order of registration; null beyond the last.
const Definition *at(size_t index);
// Adds all, or none when a name is taken (ArgumentError).
void add(std::vector<std::unique_ptr<const Definition>> definitions);

// Loads a shared library and registers its operators; gives their names. Nothing happens for one that is loaded.
// FileAccessError, FormatError for a file that is no such library, VersionError for one that needs a newer runtime,
// ArgumentError for an operator whose name is taken.
std::vector<std::string> load_library(const std::string &path);

// What an artefact's entry "tessera.custom_ops" says about the operators of a graph: JSON, empty without any.
std::string requirements_of(const graph::Graph &graph);
// One NameMissingError that lists every operator of such an entry that is not registered, or differs.
void check_requirements(const std::string &where, std::string_view json);

} // namespace tessera::custom
