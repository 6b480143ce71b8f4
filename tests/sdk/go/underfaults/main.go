// Command underfaults runs workflows with the Go SDK while somebody else kills the nodes of a cluster, and tells what became of them.
//
// EVERLOG_ADDRESS names the one node that it knows. It starts workflows in some lanes, one after the other in each, until its standard input
// ends, and prints one line of JSON: see report.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
)

const (
	queue        = "under-faults"
	signals      = 3
	patience     = 45 * time.Second // for one workflow: less than a poll waits for tasks that go elsewhere
	taskPatience = 3 * time.Second
)

// report is what is printed at the end.
type report struct {
	Completed int      `json:"completed"` // workflows that did, with the right result
	Wrong     []string `json:"wrong"`     // calls that failed, and workflows that failed or lost a signal
	Twice     []string `json:"twice"`     // activities with one attempt that ran more than once
}

// ledger counts the executions of activities that may be started once.
type ledger struct {
	mutex sync.Mutex
	runs  map[string]int
}

func (l *ledger) Once(ctx context.Context) error {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	l.runs[activity.GetInfo(ctx).WorkflowExecution.ID]++
	return nil
}

func (l *ledger) Again(ctx context.Context, number int) (int, error) {
	return number, nil
}

// Order adds up its signals, between activities, a timer and a child.
func Order(ctx workflow.Context) (int, error) {
	var l *ledger
	once := workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: taskPatience,
		RetryPolicy:         &temporal.RetryPolicy{MaximumAttempts: 1},
	})
	// Its only attempt may have been lost with the answer to it.
	if err := workflow.ExecuteActivity(once, l.Once).Get(ctx, nil); err != nil && !temporal.IsTimeoutError(err) {
		return 0, err
	}
	if err := workflow.Sleep(ctx, 200*time.Millisecond); err != nil {
		return 0, err
	}
	sum := 0
	for range signals {
		var number int
		workflow.GetSignalChannel(ctx, "add").Receive(ctx, &number)
		again := workflow.WithActivityOptions(ctx, workflow.ActivityOptions{StartToCloseTimeout: taskPatience})
		var same int
		if err := workflow.ExecuteActivity(again, l.Again, number).Get(ctx, &same); err != nil {
			return 0, err
		}
		sum += same
	}
	var child int
	err := workflow.ExecuteChildWorkflow(ctx, Child, sum).Get(ctx, &child)
	return child, err
}

// Child returns what it is given.
func Child(_ workflow.Context, number int) (int, error) { return number, nil }

func main() {
	lanes := flag.Int("lanes", 5, "how many workflows run at a time")
	flag.Parse()
	if err := run(*lanes); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(lanes int) error {
	everlog, err := client.Dial(client.Options{HostPort: os.Getenv("EVERLOG_ADDRESS"), Logger: silent{}})
	if err != nil {
		return err
	}
	defer everlog.Close()
	once := &ledger{runs: map[string]int{}}
	w := worker.New(everlog, queue, worker.Options{})
	w.RegisterWorkflow(Order)
	w.RegisterWorkflow(Child)
	w.RegisterActivity(once)
	if err := w.Start(); err != nil {
		return err
	}
	defer w.Stop()
	stop := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(stop)
	}()
	told := report{Wrong: []string{}, Twice: []string{}}
	var mutex sync.Mutex
	var all sync.WaitGroup
	for lane := range lanes {
		all.Go(func() {
			for number := 0; ; number++ {
				select {
				case <-stop:
					return
				default:
				}
				err := one(everlog, fmt.Sprintf("go-%d-%d", lane, number))
				mutex.Lock()
				if err == nil {
					told.Completed++
				} else {
					told.Wrong = append(told.Wrong, err.Error())
				}
				mutex.Unlock()
			}
		})
	}
	all.Wait()
	once.mutex.Lock()
	defer once.mutex.Unlock()
	for id, count := range once.runs {
		if count > 1 {
			told.Twice = append(told.Twice, id)
		}
	}
	return json.NewEncoder(os.Stdout).Encode(told)
}

// one runs a workflow, and says what is wrong with it. No call may fail: the SDK makes them again.
func one(everlog client.Client, id string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	started, err := everlog.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID: id, TaskQueue: queue, WorkflowTaskTimeout: taskPatience,
	}, Order)
	if err != nil {
		return fmt.Errorf("%s: start: %w", id, err)
	}
	want := 0
	for number := 1; number <= signals; number++ {
		if err := everlog.SignalWorkflow(ctx, id, started.GetRunID(), "add", number); err != nil {
			return fmt.Errorf("%s: signal %d: %w", id, number, err)
		}
		want += number
	}
	var got int
	if err := started.Get(ctx, &got); err != nil {
		return fmt.Errorf("%s: %w; its history: %v", id, err, history(everlog, id, started.GetRunID()))
	}
	if got != want {
		return fmt.Errorf("%s: the signals add up to %d, not to %d", id, got, want)
	}
	return nil
}

// history is what happened in a workflow, and when.
func history(everlog client.Client, id, runID string) []string {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var told []string
	events := everlog.GetWorkflowHistory(ctx, id, runID, false, enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for events.HasNext() {
		event, err := events.Next()
		if err != nil {
			return append(told, err.Error())
		}
		told = append(told, fmt.Sprintf("%s %v", event.EventTime.AsTime().Format("04:05.000"), event.EventType))
	}
	return told
}

// silent drops the SDK's logs: nodes that are away are what this is about.
type silent struct{}

func (silent) Debug(string, ...interface{}) {}
func (silent) Info(string, ...interface{})  {}
func (silent) Warn(string, ...interface{})  {}
func (silent) Error(string, ...interface{}) {}
