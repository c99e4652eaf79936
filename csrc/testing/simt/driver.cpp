// Runs the CUDA kernels, emulated and without torch, on cases from files:
//   driver [--schedules forward,random:2,...] [--stop] FILE...
// Each case runs under every schedule. Its outputs must lie within the case's tolerances, be
// bit-equal over schedules, and be all that was written; the kernels' instances must be those that
// the case was made for. One line per case; the exit code is 1 if one failed, `--stop`: at once.
#include <chrono>

#include "../../cuda/backward.h"
#include "../../cuda/run.h"
#include "driver_case.h"
#include "settings.h"

namespace dom2::cuda {
int traced_launch_sample_transitions(const Sample& s, void* stream);
}

namespace driver {

using namespace dom2;
using namespace dom2::cuda;

// What was launched, in words.
struct Trace {
  int launches = 0, splits = 0;
  string shape;

  string text() const {
    string s = shape + ", " + std::to_string(launches) + " launched";
    if (splits) s += ", " + std::to_string(splits) + " splits";
    return s;
  }
} trace;

struct Schedule {
  simt::Schedule order;
  uint64_t seed;
  string name;
};

std::vector<Schedule> parse_schedules(const string& list) {
  std::vector<Schedule> result;
  for (size_t at = 0; at < list.size();) {
    const size_t end = std::min(list.find(',', at), list.size());
    const string name = list.substr(at, end - at), kind = name.substr(0, name.find(':'));
    const uint64_t seed = kind == name ? 0 : std::stoull(name.substr(kind.size() + 1));
    if (kind == "forward")
      result.push_back({simt::Schedule::forward, seed, name});
    else if (kind == "reverse")
      result.push_back({simt::Schedule::reverse, seed, name});
    else if (kind == "random")
      result.push_back({simt::Schedule::random, seed, name});
    else if (kind == "greedy")
      result.push_back({simt::Schedule::greedy, seed, name});
    else
      fail("unknown schedule " + name);
    at = end + 1;
  }
  return result;
}

void must(const string& why) {
  if (!why.empty()) fail(why);
}

// --- one run of one case ------------------------------------------------------------------------

class Run {
 public:
  Run(const Case& c, bool quiet) : case_(c), memory_(quiet) {}

  std::vector<Output> start() {
    simt::settings().multiprocessors = static_cast<int>(case_.number("multiprocessors"));
    simt::settings().shared_per_block = static_cast<int>(case_.number("shared_bytes"));
    must(find_device(0, context_.device));
    context_.allocate = [this](int64_t bytes) { return memory_.allocate(bytes); };
    const string op = case_.text("op");
    if (op == "sample")
      sample();
    else if (op == "forward")
      forward();
    else
      backward();
    must(memory_.check());
    return outputs_;
  }

 private:
  template <class T>
  const T* optional(const char* name) {
    return case_.has(name) ? memory_.upload<T>(case_[name]) : nullptr;
  }

  float* output(const string& name, int64_t count) {
    float* data = static_cast<float*>(memory_.allocate(4 * count));
    outputs_.push_back({name, 'f', data, count});
    return data;
  }

  float* wanted(const char* name, int64_t count) {
    return case_.has(string("expected.") + name) ? output(name, count) : nullptr;
  }

  // The pair is read from the card's memory, or travels with the launch.
  template <class T>
  void set_rng(T& to) {
    if (!case_.has("rng")) return;
    const Array& rng = case_["rng"];
    if (case_.number("rng_on_device")) {
      to.rng = memory_.upload<int64_t>(rng);
    } else {
      to.seed = static_cast<uint64_t>(rng.at<int64_t>(0));
      to.offset = static_cast<uint32_t>(rng.at<int64_t>(1));
    }
  }

  Data data() {
    Data d{};
    d.groups = case_.number("groups");
    d.batch = case_.number("batch");
    d.steps = case_.number("steps");
    d.repeat = case_.number("repeat");
    d.x = optional<float>("x");
    d.cond = optional<float>("cond");
    d.table = memory_.upload<float>(case_["table"]);
    d.noise = optional<float>("noise");
    set_rng(d);
    return d;
  }

  void lay_out(bool backward) {
    const Array& words = case_["program"];
    program_ = Program{};
    must(decode(reinterpret_cast<const int64_t*>(words.bytes.data()), words.count, program_));
    precision_ = static_cast<Precision>(case_.number("precision"));
    const Plan plan(program_, backward);
    must(make_code(program_, plan, precision_, backward, code_));
  }

  const void* pack(bool transposed) {
    std::vector<Source> sources;
    for (int i = 0; i < code_.matrices; ++i) {
      const string name = "weights." + std::to_string(i);
      const Array& strides = case_["strides." + std::to_string(i)];
      sources.push_back({memory_.upload<float>(case_[name]), strides.at<int64_t>(0),
                         strides.at<int64_t>(1), strides.at<int64_t>(2)});
    }
    const int64_t groups = case_.number("groups");
    void* out = memory_.allocate(16 * groups * (transposed ? code_.packets_t : code_.packets));
    must(pack_weights(context_, code_, precision_, sources.data(), groups, transposed, out));
    return out;
  }

  const double* solver() const {
    return case_.has("solver") ? reinterpret_cast<const double*>(case_["solver"].bytes.data())
                               : nullptr;
  }

  void forward() {
    lay_out(false);
    Data d = data();
    d.packed = pack(false);
    const int64_t rows = d.groups * d.batch;
    d.out = output("out", rows * (solver() ? code_.x_width : code_.out_width));
    d.path = wanted("path", (d.steps + 1) * rows * code_.x_width);
    const Array& limits = case_["limits"];
    must(denoise(context_, code_, precision_, d, solver(), limits.at<double>(0),
                 limits.at<double>(1)));
  }

  void backward() {
    lay_out(true);
    Data d = data();
    d.packed = pack(false);
    Gradients g{};
    g.path = memory_.upload<float>(case_["path"]);
    g.grad_out = memory_.upload<float>(case_["grad_out"]);
    g.packed_t = pack(true);
    const int64_t rows = d.groups * d.batch;
    g.x = wanted("x", rows * code_.x_width);
    g.cond = wanted("cond", rows * code_.cond_width);
    g.table = wanted("table", d.steps * d.groups * code_.table_width);
    if (case_.has("expected.weights.0")) {
      g.weights = static_cast<float*>(memory_.allocate(4 * d.groups * code_.grad_floats));
      for (int i = 0; i < code_.matrices; ++i) {
        const Matrix& m = code_.matrix[i];
        outputs_.push_back({"weights." + std::to_string(i), 'f', g.weights + d.groups * m.grad,
                            d.groups * m.n * m.k});
      }
    }
    const Array& limits = case_["limits"];
    must(denoise_backward(context_, code_, precision_, d, solver(), limits.at<double>(0),
                          limits.at<double>(1), g, case_.number("workspace_bytes")));
  }

  void sample() {
    Sample s{};
    s.groups = case_.number("groups");
    s.batch = case_.number("batch");
    s.fields = case_.number("fields");
    s.trajectories = case_.number("trajectories");
    s.threshold = memory_.upload<int64_t>(case_["threshold"]);
    s.alias = memory_.upload<int64_t>(case_["alias"]);
    s.starts = memory_.upload<int64_t>(case_["starts"]);
    set_rng(s);
    for (int64_t i = 0; i < s.fields * s.groups; ++i) {
      const string number = std::to_string(i);
      const Array &from = case_["field." + number], &shape = case_["shape." + number];
      GatheredField& f = s.field[i];
      f.data = memory_.upload(from.bytes.data(), static_cast<int64_t>(from.bytes.size()));
      f.is_double = from.type == 'd';
      f.row = shape.at<int64_t>(0);
      f.width = static_cast<int>(shape.at<int64_t>(1));
      f.vector = static_cast<int8_t>(shape.at<int64_t>(2));
      f.out = output("out." + number, s.batch * f.width);
    }
    const int64_t count = s.groups * s.batch;
    s.index = static_cast<int64_t*>(memory_.allocate(8 * count));
    outputs_.push_back({"index", 'q', s.index, count});
    must(failure("sample_transitions", traced_launch_sample_transitions(s, nullptr)));
  }

  const Case& case_;
  DeviceMemory memory_;
  Context context_;
  Program program_;
  Code code_;
  Precision precision_ = Precision::kFp32;
  std::vector<Output> outputs_;
};

// --- a case under all schedules -----------------------------------------------------------------

string run_case(const Case& c, const std::vector<Schedule>& schedules) {
  std::vector<std::vector<unsigned char>> first;
  string shape;
  for (size_t n = 0; n < schedules.size(); ++n) {
    const Schedule& s = schedules[n];
    simt::settings().schedule = s.order;
    simt::settings().seed = s.seed;
    trace = Trace{};
    try {
      Run run(c, n % 2 == 0);
      const std::vector<Output> outputs = run.start();
      shape = trace.text();
      if (shape != c.text("shape"))
        fail("ran as '" + shape + "', made for '" + c.text("shape") + "'");
      for (size_t i = 0; i < outputs.size(); ++i) {
        const Output& out = outputs[i];
        const auto* bytes = static_cast<const unsigned char*>(out.data);
        const size_t size = static_cast<size_t>(out.count * Array::size_of(out.type));
        compare(out, c);
        if (n == 0)
          first.emplace_back(bytes, bytes + size);
        else if (size && std::memcmp(first[i].data(), bytes, size) != 0)
          fail(out.name + " differs from that under " + schedules[0].name);
      }
    } catch (const std::runtime_error& error) {
      fail("under " + s.name + ": " + error.what());
    }
  }
  return shape;
}

int run(int argc, char** argv) {
  string list = "forward,reverse,random:1,random:2,greedy:1,greedy:2";
  bool stop = false, failed = false;
  for (int i = 1; i < argc; ++i) {
    const string argument = argv[i];
    if (argument == "--stop") {
      stop = true;
    } else if (argument == "--schedules" && i + 1 < argc) {
      list = argv[++i];
    } else {
      const auto begin = std::chrono::steady_clock::now();
      string line;
      bool bad = false;
      try {
        const Case c = read_case(argument);
        line = c.text("name") + ": ";
        line += run_case(c, parse_schedules(list));
      } catch (const std::runtime_error& error) {
        line += error.what();
        bad = failed = true;
      }
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
      std::printf("%s %s (%.2f s)\n", bad ? "FAIL" : "ok  ", line.c_str(), took.count());
      std::fflush(stdout);
      if (bad && stop) return 1;
    }
  }
  return failed;
}

}  // namespace driver

// --- run.cpp and run_bwd.cpp are compiled to call these instead of the kernels' launches
// -----------

namespace dom2::cuda {

int traced_launch_denoise(const Forward& f, const Shape& s, void* stream) {
  driver::trace.launches += 1;
  driver::trace.shape = std::string(s.resident ? "resident " : "streamed ") +
                        (f.scratch ? "scratch " : "") + std::to_string(s.rows) + ", " +
                        std::to_string(f.tiles) + " tiles in " + std::to_string(s.blocks) +
                        " blocks";
  return launch_denoise(f, s, stream);
}

int traced_launch_denoise_backward(const Backward& b, Precision precision, int rows,
                                   int64_t shared_bytes, void* stream) {
  driver::trace.launches += 1;
  driver::trace.shape =
      std::string("backward ") + (b.scratch ? "scratch " : "") + std::to_string(rows);
  return launch_denoise_backward(b, precision, rows, shared_bytes, stream);
}

int traced_launch_weight_gradients(const WeightGradients& w, Precision precision, void* stream) {
  driver::trace.splits = w.splits;
  return launch_weight_gradients(w, precision, stream);
}

int traced_launch_sample_transitions(const Sample& s, void* stream) {
  driver::trace.launches += 1;
  driver::trace.shape = "sample";
  return launch_sample_transitions(s, stream);
}

}  // namespace dom2::cuda

int main(int argc, char** argv) { return driver::run(argc, argv); }
