#include "custom/registry.h"

#include <map>
#include <mutex>
#include <set>
#include <shared_mutex>

#include "core/json.h"
#include "graph/json_string.h"

namespace tessera::custom {

using core::Code;
using core::fail;
using core::shown;

namespace {

struct Registry {
    std::shared_mutex lock;
    std::map<std::string, std::unique_ptr<const Definition>, std::less<>> by_name;
    std::vector<const Definition *> order;
};

// Never destroyed: programs may run while the process ends.
Registry &registry() {
    static Registry *const instance = new Registry;
    return *instance;
}

std::string hash_text(uint64_t hash) { return core::format("%016llx", static_cast<unsigned long long>(hash)); }

std::string file_name(const std::string &path) {
    const size_t slash = path.rfind('/');
    return slash == std::string::npos ? path : path.substr(slash + 1);
}

std::string member(const core::Json &entry, const char *name, const std::string &where) {
    const core::Json *found = entry.is_object() ? entry.find(name) : nullptr;
    if (!found || !found->is_string())
        fail(Code::Format, "%s: tessera.custom_ops: an operator has no '%s'", where.c_str(), name);
    return found->as_string();
}

} // namespace

const Definition *find(std::string_view name) {
    Registry &all = registry();
    std::shared_lock<std::shared_mutex> hold(all.lock);
    const auto found = all.by_name.find(name);
    return found == all.by_name.end() ? nullptr : found->second.get();
}

const Definition &get(std::string_view name) {
    if (const Definition *found = find(name))
        return *found;
    fail(Code::NameMissing,
         "unknown operator '%s': no library that is loaded has it; load its library with load_library first",
         shown(std::string(name)).c_str());
}

const Definition *at(size_t index) {
    Registry &all = registry();
    std::shared_lock<std::shared_mutex> hold(all.lock);
    return index < all.order.size() ? all.order[index] : nullptr;
}

void add(std::vector<std::unique_ptr<const Definition>> definitions) {
    Registry &all = registry();
    std::unique_lock<std::shared_mutex> hold(all.lock);
    std::set<std::string_view> names;
    for (const auto &definition : definitions) {
        const auto other = all.by_name.find(definition->name());
        if (other != all.by_name.end())
            fail(Code::Argument, "%s: the operator %s is there already, from %s; give one of them another name",
                 definition->library().c_str(), definition->name().c_str(), other->second->library().c_str());
        if (!names.insert(definition->name()).second)
            fail(Code::Argument, "%s: the operator %s is declared twice", definition->library().c_str(),
                 definition->name().c_str());
    }
    all.order.reserve(all.order.size() + definitions.size());
    for (auto &definition : definitions) {
        const Definition *stays = definition.get();
        all.by_name.emplace(stays->name(), std::move(definition));
        all.order.push_back(stays);
    }
}

std::string requirements_of(const graph::Graph &graph) {
    std::set<std::string> names;
    for (const graph::Node &node : graph.nodes)
        if (is_custom(node.op))
            names.insert(node.op);
    std::string out;
    for (const std::string &name : names) {
        const Definition &d = get(name);
        out += out.empty() ? "[" : ", ";
        out += "{\"name\": ";
        graph::append_json(out, name);
        out += ", \"schema\": ";
        graph::append_json(out, d.schema_text());
        out += ", \"hash\": \"" + hash_text(d.hash()) + "\", \"library\": ";
        graph::append_json(out, file_name(d.library()));
        out += "}";
    }
    return out.empty() ? out : out + "]";
}

void check_requirements(const std::string &where, std::string_view json) {
    const core::Json list = core::Json::parse(json, where + ": tessera.custom_ops");
    if (!list.is_array())
        fail(Code::Format, "%s: tessera.custom_ops is not a list", where.c_str());
    std::string wrong;
    for (const core::Json &entry : list.items()) {
        const std::string name = member(entry, "name", where), schema = member(entry, "schema", where),
                          hash = member(entry, "hash", where), library = member(entry, "library", where);
        if (const core::Json *composite = entry.find("composite"); composite && composite->is_bool() && composite->as_bool())
            continue; // only the graph as the user wrote it has it, what runs does not
        const Definition *found = find(name);
        if (found && hash_text(found->hash()) == hash)
            continue;
        wrong += "\n  " + shown(name) + shown(schema, 400) + " of " + shown(library);
        if (found)
            wrong += ": another one is loaded, " + found->schema_text() + " of " + found->library();
    }
    if (!wrong.empty())
        fail(Code::NameMissing,
             "%s needs custom operators that are missing or differ:%s\nLoad the libraries named with "
             "tessera::load_library, in Python tessera.load_library, first",
             where.c_str(), wrong.c_str());
}

} // namespace tessera::custom
