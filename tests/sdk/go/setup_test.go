// Package conformance runs the Go SDK's client and workers against the server named by EVERLOG_ADDRESS.
package conformance

import (
	"context"
	"fmt"
	"log"
	"os"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"
	"go.temporal.io/sdk/worker"
)

// patience bounds every test, so that a server that loses a task shows as a failure.
const patience = 20 * time.Second

var everlog client.Client

func TestMain(m *testing.M) {
	var err error
	everlog, err = dial("go-conformance")
	if err != nil {
		log.Fatalf("EVERLOG_ADDRESS=%q: %v", os.Getenv("EVERLOG_ADDRESS"), err)
	}
	code := m.Run()
	everlog.Close()
	os.Exit(code)
}

func dial(identity string) (client.Client, error) {
	return client.Dial(client.Options{
		HostPort: os.Getenv("EVERLOG_ADDRESS"),
		Identity: identity,
		Logger:   silent{},
	})
}

// silent drops the SDK's logs: failing workflows and activities are what these tests are about.
type silent struct{}

func (silent) Debug(string, ...interface{}) {}
func (silent) Info(string, ...interface{})  {}
func (silent) Warn(string, ...interface{})  {}
func (silent) Error(string, ...interface{}) {}

var _ sdklog.Logger = silent{}

// unique is a name that no other test, run or process uses.
func unique(prefix string) string {
	return prefix + "-" + uuid.NewString()
}

// scenario is one test's context, task queue and registered workflows.
type scenario struct {
	*testing.T
	ctx       context.Context
	queue     string
	workflows map[string]any
}

// begin runs a worker with these workflows and activities until the test ends. Tests run side by side.
func begin(t *testing.T, workflows []any, activities ...any) *scenario {
	t.Parallel()
	return beginOn(t, everlog, worker.Options{}, workflows, activities...)
}

func beginOn(t *testing.T, c client.Client, options worker.Options, workflows []any, activities ...any) *scenario {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	s := &scenario{T: t, ctx: ctx, queue: unique("tq")}
	options.MaxHeartbeatThrottleInterval = 200 * time.Millisecond
	options.DefaultHeartbeatThrottleInterval = 200 * time.Millisecond
	w := worker.New(c, s.queue, options)
	for _, workflow := range workflows {
		w.RegisterWorkflow(workflow)
	}
	for _, activity := range activities {
		w.RegisterActivity(activity)
	}
	require.NoError(t, w.Start())
	t.Cleanup(w.Stop)
	return s
}

// start starts a workflow on the scenario's task queue.
func (s *scenario) start(workflow any, args ...any) client.WorkflowRun {
	s.Helper()
	return s.startWith(client.StartWorkflowOptions{}, workflow, args...)
}

func (s *scenario) startWith(options client.StartWorkflowOptions, workflow any, args ...any) client.WorkflowRun {
	s.Helper()
	if options.ID == "" {
		options.ID = unique("go")
	}
	if options.TaskQueue == "" {
		options.TaskQueue = s.queue
	}
	run, err := everlog.ExecuteWorkflow(s.ctx, options, workflow, args...)
	s.must(err)
	return run
}

func (s *scenario) must(err error) {
	s.Helper()
	require.NoError(s, err)
}

// result waits for the run's result.
func result[T any](s *scenario, run client.WorkflowRun) T {
	s.Helper()
	var value T
	s.must(run.Get(s.ctx, &value))
	return value
}

// history reads the run's events.
func (s *scenario) history(run client.WorkflowRun) []*historypb.HistoryEvent {
	s.Helper()
	events := everlog.GetWorkflowHistory(
		s.ctx, run.GetID(), run.GetRunID(), false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	var history []*historypb.HistoryEvent
	for events.HasNext() {
		event, err := events.Next()
		s.must(err)
		history = append(history, event)
	}
	return history
}

// verified reads the run's events, checks them, and replays them with the SDK.
func (s *scenario) verified(run client.WorkflowRun, workflows ...any) []*historypb.HistoryEvent {
	s.Helper()
	history := s.history(run)
	for i, event := range history {
		require.EqualValues(s, i+1, event.EventId, "event ids are contiguous from 1")
		if event.EventType == enumspb.EVENT_TYPE_WORKFLOW_TASK_STARTED && i+1 < len(history) {
			require.Contains(s, []enumspb.EventType{
				enumspb.EVENT_TYPE_WORKFLOW_TASK_COMPLETED,
				enumspb.EVENT_TYPE_WORKFLOW_TASK_FAILED,
				enumspb.EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT,
			}, history[i+1].EventType, "nothing stands between a workflow task's start and its end")
		}
	}
	replayer := worker.NewWorkflowReplayer()
	for _, workflow := range workflows {
		replayer.RegisterWorkflow(workflow)
	}
	s.must(replayer.ReplayWorkflowHistory(silent{}, &historypb.History{Events: history}))
	return history
}

// ofType picks the events of one type.
func ofType(history []*historypb.HistoryEvent, wanted enumspb.EventType) []*historypb.HistoryEvent {
	var found []*historypb.HistoryEvent
	for _, event := range history {
		if event.EventType == wanted {
			found = append(found, event)
		}
	}
	return found
}

// names lists event types as Temporal's documentation spells them.
func names(history []*historypb.HistoryEvent) []string {
	var found []string
	for _, event := range history {
		found = append(found, event.EventType.String())
	}
	return found
}

// eventually waits until the condition holds.
func (s *scenario) eventually(condition func() bool, what string) {
	s.Helper()
	require.Eventually(s, condition, patience, 50*time.Millisecond, what)
}

// payload is a text of the given size that does not compress to nothing.
func payload(bytes int) string {
	text := make([]byte, 0, bytes+16)
	for i := 0; len(text) < bytes; i++ {
		text = fmt.Appendf(text, "%x.", i*2654435761)
	}
	return string(text[:bytes])
}
