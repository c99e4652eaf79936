// Runs the CPU kernels, without torch, on cases from files that kernel_check_cases.py wrote:
//   kernel_check ISA FILE...
// One line per case, and an exit code of 1 if one failed: a result beyond its tolerance, or memory
// written beside it.
#include <cstdio>
#include <cstdlib>

#include "core/plan.h"
#include "cpu/run.h"
#include "testing/simt/driver_case.h"

namespace {

using namespace dom2;
using namespace dom2::cpu;
using driver::Array;
using driver::Case;
using driver::fail;
using driver::Output;
using std::string;

// Three threads' worth of work, one after the other: sums over rows come in three parts.
const Threads kThreads{3, [](int64_t n, const std::function<void(int64_t)>& body) {
                         for (int64_t i = 0; i < n; ++i) body(i);
                       }};

// One network of a case: its arrays have names that start with `prefix`.
struct Network {
  const Case& c;
  driver::DeviceMemory& memory;
  string prefix;
  Program program;
  std::unique_ptr<Plan> plan;
  std::vector<float> table;

  Network(const Case& from, driver::DeviceMemory& m, const string& names, bool backward)
      : c(from), memory(m), prefix(names) {
    const Array& words = c[prefix + "program"];
    const string why =
        decode(reinterpret_cast<const int64_t*>(words.bytes.data()), words.count, program);
    if (!why.empty()) fail(why);
    plan = std::make_unique<Plan>(program, backward);
  }

  const float* packed(bool transposed) {
    const Exec& e = plan->exec;
    const bool bf16 = c.number("precision");
    const int64_t groups = c.number("groups");
    float* room = static_cast<float*>(
        memory.allocate(4 * (groups * packed_size(e, transposed, bf16) + kPanel)));
    for (size_t i = 0; i < plan->weights.size(); ++i) {
      const string number = std::to_string(i);
      const float* data = memory.upload<float>(c[prefix + "weights." + number]);
      const Array& strides = c[prefix + "strides." + number];
      for (int64_t g = 0; g < groups; ++g)
        pack_weight(
            e, plan->weights[i], g,
            {data + g * strides.at<int64_t>(0), strides.at<int64_t>(1), strides.at<int64_t>(2)},
            transposed, bf16, room);
    }
    return room;
  }

  Call call() {
    Call out{};
    out.exec = &plan->exec;
    out.groups = c.number("groups");
    out.batch = c.number("batch");
    out.steps = prefix.empty() ? c.number("steps") : 1;
    out.repeat = c.number("repeat");
    if (c.has("cond")) out.cond = memory.upload<float>(c["cond"]);
    out.bf16 = c.number("precision");
    const int64_t rows = out.steps * out.groups;
    table.resize(rows * plan->exec.table_ld);
    pad_table(*plan, memory.upload<float>(c[prefix + "table"]), program.table_width, rows,
              table.data());
    out.table = table.data();
    out.packed = packed(false);
    if (c.has(prefix + "rng")) {
      out.seed = static_cast<uint64_t>(c[prefix + "rng"].at<int64_t>(0));
      out.offset = static_cast<uint32_t>(c[prefix + "rng"].at<int64_t>(1));
    }
    if (!prefix.empty()) return out;
    if (c.has("x")) out.x = memory.upload<float>(c["x"]);
    if (c.has("noise")) out.noise = memory.upload<float>(c["noise"]);
    if (c.has("solver")) out.solver = reinterpret_cast<const double*>(c["solver"].bytes.data());
    out.out_low = c["limits"].at<double>(0);
    out.out_high = c["limits"].at<double>(1);
    return out;
  }
};

class Run {
 public:
  Run(const Case& c, const Kernels& k) : case_(c), kernels_(k), memory_(true) {}

  std::vector<Output> start() {
    const string op = case_.text("op");
    if (op == "sample")
      sample();
    else if (op == "forward")
      forward();
    else
      differentiate(op);
    const string why = memory_.check();
    if (!why.empty()) fail(why);
    return outputs_;
  }

 private:
  template <class T = float>
  T* output(const string& name, int64_t count) {
    T* data = static_cast<T*>(memory_.allocate(count * static_cast<int64_t>(sizeof(T))));
    outputs_.push_back({name, sizeof(T) == 4 ? 'f' : 'q', data, count});
    return data;
  }
  float* wanted(const string& name, int64_t count) {
    return case_.has("expected." + name) ? output(name, count) : nullptr;
  }

  void forward() {
    Network net(case_, memory_, "", false);
    Call c = net.call();
    const int64_t rows = c.groups * c.batch;
    c.out = output("out", rows * c.exec->out_width);
    c.path = wanted("path", (c.steps + 1) * rows * c.exec->x_width);
    denoise(kernels_, c, kThreads);
  }

  // A loss with its gradients, or the gradients of `forward`.
  void differentiate(const string& op) {
    Network net(case_, memory_, "", true);
    const Call c = net.call();
    const Exec& e = *c.exec;
    const int64_t rows = c.groups * c.batch;
    BackwardCall b{};
    b.packed_t = net.packed(true);
    b.grad_x = wanted("x", rows * e.x_width);
    float* cond = nullptr;  // of each row; those of one condition vector are added up below
    const int64_t vectors = rows / c.repeat;
    if (case_.has("expected.cond"))
      b.grad_cond = cond = static_cast<float*>(memory_.allocate(4 * rows * e.cond_width));
    Gradients out{nullptr, wanted("table", c.steps * c.groups * net.program.table_width),
                  net.program.table_width};
    if (out.table) std::fill_n(out.table, c.steps * c.groups * net.program.table_width, 0.f);
    if (case_.has("expected.weights.0")) {
      int64_t size = 0;
      for (const Weight& w : net.plan->weights) size += c.groups * w.n * w.k;
      out.weights = static_cast<float*>(memory_.allocate(4 * size));
      float* at = out.weights;
      for (size_t i = 0; i < net.plan->weights.size(); ++i) {
        const Weight& w = net.plan->weights[i];
        outputs_.push_back({"weights." + std::to_string(i), 'f', at, c.groups * w.n * w.k});
        at += c.groups * w.n * w.k;
      }
    }
    if (op == "backward") {
      b.path = memory_.upload<float>(case_["path"]);
      b.grad_out = memory_.upload<float>(case_["grad_out"]);
      denoise_backward(kernels_, *net.plan, c, b, out, kThreads);
    } else if (op == "denoising_loss") {
      denoising_loss(kernels_, *net.plan, c, b, memory_.upload<float>(case_["target"]), out,
                     kThreads, output("loss", c.groups));
    } else if (op == "conservative_loss") {
      conservative(net, c, b, out);
    } else if (op == "chain_value") {
      chain(net, c, b, out);
    } else {
      fail("unknown op " + op);
    }
    if (!cond) return;
    float* sums = output("cond", vectors * e.cond_width);
    for (int64_t v = 0; v < vectors; ++v)
      for (int j = 0; j < e.cond_width; ++j) {
        double sum = 0;
        for (int64_t r = v * c.repeat; r < (v + 1) * c.repeat; ++r)
          sum += cond[r * e.cond_width + j];
        sums[v * e.cond_width + j] = static_cast<float>(sum);
      }
  }

  void conservative(const Network& net, const Call& c, const BackwardCall& b,
                    const Gradients& out) {
    ConservativeCall l{};
    l.data_groups = case_.number("data_groups");
    l.act = memory_.upload<float>(case_["act"]);
    l.proposed = memory_.upload<float>(case_["proposed"]);
    l.target = memory_.upload<float>(case_["target"]);
    l.weight = case_["cql_weight"].at<double>(0);
    if (case_.has("log_densities"))
      l.log_densities = memory_.upload<float>(case_["log_densities"]);
    else
      l.log_density = case_["log_density"].at<double>(0);
    l.q = output("q", c.groups * c.batch);
    float* loss = output("loss", c.groups);
    conservative_loss(kernels_, *net.plan, c, b, l, out, kThreads, loss,
                      output("parts", 2 * c.groups));
  }

  void chain(const Network& net, const Call& c, const BackwardCall& b, const Gradients& out) {
    Network critic(case_, memory_, "critic.", true);
    ChainCall l{};
    l.critic = critic.call();
    l.packed_t = critic.packed(true);
    l.q = output("q", c.groups * c.batch);
    l.act = output("act", c.groups * c.batch * c.exec->out_width);
    chain_value(kernels_, *net.plan, c, b, l, out, kThreads, output("loss", c.groups));
  }

  void sample() {
    SampleCall s{};
    s.groups = case_.number("groups");
    s.batch = case_.number("batch");
    s.fields = case_.number("fields");
    s.trajectories = case_.number("trajectories");
    s.threshold = memory_.upload<int64_t>(case_["threshold"]);
    s.alias = memory_.upload<int64_t>(case_["alias"]);
    s.starts = memory_.upload<int64_t>(case_["starts"]);
    s.seed = static_cast<uint64_t>(case_["rng"].at<int64_t>(0));
    s.offset = static_cast<uint32_t>(case_["rng"].at<int64_t>(1));
    std::vector<Field> fields;
    for (int64_t i = 0; i < s.fields * s.groups; ++i) {
      const string number = std::to_string(i);
      const Array &from = case_["field." + number], &shape = case_["shape." + number];
      const int64_t width = shape.at<int64_t>(1);
      fields.push_back({memory_.upload(from.bytes.data(), static_cast<int64_t>(from.bytes.size())),
                        shape.at<int64_t>(0), width, from.type == 'd',
                        output("out." + number, s.batch * width)});
    }
    s.field = fields.data();
    s.index = output<int64_t>("index", s.groups * s.batch);
    sample_transitions(kernels_, s, kThreads);
  }

  const Case& case_;
  const Kernels& kernels_;
  driver::DeviceMemory memory_;
  std::vector<Output> outputs_;
};

}  // namespace

int main(int argc, char** argv) {
  bool failed = argc < 3 || !choose(argv[1]);
  if (failed) {
    std::printf("FAIL usage: kernel_check ISA FILE..., an ISA that can run here\n");
    return 1;
  }
  for (int i = 2; i < argc; ++i) {
    string line = argv[i];
    bool bad = false;
    try {
      const Case c = driver::read_case(argv[i]);
      line = c.text("name");
      Run run(c, active());
      for (const Output& out : run.start()) driver::compare(out, c);
    } catch (const std::runtime_error& error) {
      line += string(": ") + error.what();
      bad = failed = true;
    }
    std::printf("%s %s\n", bad ? "FAIL" : "ok  ", line.c_str());
  }
  return failed;
}
