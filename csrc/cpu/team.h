// The threads that help a caller with the tasks of one call.
//
// Not at::parallel_for: its threads spin for milliseconds at the end of every call, and the caller waits for all of
// them, also for one that another process keeps from its core. A network is some eighty calls; where processes share
// cores, that made it up to three times slower. Here a helper that comes late finds the tasks done, nobody waits for
// it, and all sleep soon. Every calling thread has helpers of its own.
#pragma once

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "old_systems.h"

namespace famkern {

class Team {
   public:
    // Runs body(0) here and body(1) ... body(workers - 1) on helpers, as far as they come in time. Each must take work
    // from a common store until there is none left.
    static void run(int64_t workers, const std::function<void(int64_t)>& body) {
        thread_local std::unique_ptr<Team> team;
        if (workers <= 1) return body(0);
        if (team != nullptr && team->process_ != getpid()) team.release();  // fork() does not copy threads
        if (team == nullptr) team.reset(new Team);
        team->share(workers, body);
    }

    ~Team() {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            quit_ = true;
            ++round_;
        }
        start_.notify_all();
        for (std::thread& helper : helpers_) helper.join();
    }

   private:
    static constexpr int kSpins = 2000;  // some 50 microseconds: about what passes from one call to the next

    static void pause() {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }

    void share(int64_t workers, const std::function<void(int64_t)>& body) {
        while (int64_t(helpers_.size()) < workers - 1) add_helper();
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            body_ = &body;
            wanted_ = workers - 1;
            next_worker_ = 1;
            ++round_;
        }
        start_.notify_all();
        body(0);
        std::unique_lock<std::mutex> lock(mutex_);
        wanted_ = 0;
        finished_.wait(lock, [&] { return active_ == 0; });
    }

    void add_helper() {
        sigset_t all, before;  // signals are for the threads of the program
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        helpers_.emplace_back([this] { help(); });
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
    }

    void help() {
        for (uint64_t seen = 0;;) {
            for (int spin = 0; spin < kSpins && round_ == seen; ++spin) pause();
            std::unique_lock<std::mutex> lock(mutex_);
            start_.wait(lock, [&] { return quit_ || round_ != seen; });
            if (quit_) return;
            seen = round_;
            if (wanted_ == 0) continue;
            --wanted_;
            ++active_;
            const auto* body = body_;
            const int64_t worker = next_worker_++;
            lock.unlock();
            (*body)(worker);
            lock.lock();
            if (--active_ == 0) finished_.notify_one();
        }
    }

    const pid_t process_ = getpid();
    std::mutex mutex_;
    std::condition_variable start_, finished_;
    std::atomic<uint64_t> round_{0};
    const std::function<void(int64_t)>* body_ = nullptr;
    int64_t wanted_ = 0, active_ = 0, next_worker_ = 1;
    bool quit_ = false;
    std::vector<std::thread> helpers_;
};

}  // namespace famkern
